"""Averages the weights of several checkpoints of a run.

    python scripts/average.py run.nemo run--step=1000.ckpt run--step=2000.ckpt --out averaged.nemo

The same as ``birq average``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.export.average_command import average

if __name__ == "__main__":
    run_script(average, __file__)
