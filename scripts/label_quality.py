"""Compares a model's labels with the phones of an alignment.

    python scripts/label_quality.py model.nemo validation.json --alignments phones.ctm

The same as ``birq label-quality``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.evaluation.label_quality.command import label_quality

if __name__ == "__main__":
    run_script(label_quality, __file__)
