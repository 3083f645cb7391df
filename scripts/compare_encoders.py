"""Compares the layers of frozen encoders by ABX and linear probes.

    python scripts/compare_encoders.py ours.nemo nest.nemo --train train.json --dev dev.json --test test.json --out encoders

The same as ``birq compare-encoders``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.evaluation.encoder_comparison.command import compare_encoders

if __name__ == "__main__":
    run_script(compare_encoders, __file__)
