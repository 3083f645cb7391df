"""Decoding and scoring of speech recognizers."""

from nemo_birq.scoring.results import score
from nemo_birq.scoring.test_sets import check_test_manifest

__all__ = ["check_test_manifest", "score"]
