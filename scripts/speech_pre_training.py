"""Pretrains a speech encoder on audio without transcripts.

    python scripts/speech_pre_training.py --config-name=birq_conformer_large model.train_ds.manifest_filepath=...

The same as ``birq pretrain``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.pretraining.command import pretrain

if __name__ == "__main__":
    run_script(pretrain, __file__)
