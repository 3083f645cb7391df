"""Trains a linear classifier on each layer of a frozen encoder.

    python scripts/probe.py model.nemo --train train.json --dev dev.json --test test.json

The same as ``birq probe``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.evaluation.probing.command import probe

if __name__ == "__main__":
    run_script(probe, __file__)
