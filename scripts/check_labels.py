"""Checks the labels of your data before you train on them.

    python scripts/check_labels.py --config-name=birq_conformer_large model.train_ds.manifest_filepath=... +minutes=5

The same as ``birq check-labels``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.evaluation.preflight.command import check_labels

if __name__ == "__main__":
    run_script(check_labels, __file__)
