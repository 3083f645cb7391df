"""Writes the untrained model with which a pretraining begins.

    python scripts/untrained_model.py --config-name=birq_conformer_tiny name=untrained ...

The same as ``birq untrained-model``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.pretraining.command import untrained_model

if __name__ == "__main__":
    run_script(untrained_model, __file__)
