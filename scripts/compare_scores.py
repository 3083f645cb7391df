"""Tests if the difference between two recognizers on one test set is significant.

    python scripts/compare_scores.py first.json second.json

The same as ``birq compare-scores``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.scoring.comparison_command import compare_scores

if __name__ == "__main__":
    run_script(compare_scores, __file__)
