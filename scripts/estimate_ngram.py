"""Estimates a small n-gram language model from transcripts.

    python scripts/estimate_ngram.py train.json --out words.arpa

The same as ``birq estimate-ngram``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.scoring.ngram_command import estimate_ngram

if __name__ == "__main__":
    run_script(estimate_ngram, __file__)
