"""Transcribes test sets with a recognizer, and prints its error rates with intervals.

    python scripts/score.py model.nemo test-clean.json test-other.json

The same as ``birq score``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.scoring.command import score

if __name__ == "__main__":
    run_script(score, __file__)
