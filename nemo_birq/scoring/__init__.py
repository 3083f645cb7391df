"""Decoding and scoring of speech recognizers."""

from nemo_birq.scoring.eval_sets import check_test_manifest
from nemo_birq.scoring.results import score

__all__ = ["check_test_manifest", "score"]
