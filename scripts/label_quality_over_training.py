"""Compares labels with phones at every checkpoint that a pretraining has kept.

    python scripts/label_quality_over_training.py model.nemo validation.json --alignments phones.ctm

The same as ``birq label-quality-over-training``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.evaluation.label_quality.over_training_command import label_quality_over_training

if __name__ == "__main__":
    run_script(label_quality_over_training, __file__)
