"""Forced alignment of phones: how two alignments are compared, and which words are aligned."""

import numpy as np
import pytest
from lhotse.supervision import AlignmentItem

from benchmarks.aligned_phones import agreement, spoken_words, summarize

pytestmark = pytest.mark.unit


def intervals(*parts: tuple[str, float]) -> list[AlignmentItem]:
    """Phones with their durations in seconds, one after the other."""
    ends = np.cumsum([seconds for _, seconds in parts])
    return [AlignmentItem(name, float(end - seconds), seconds) for (name, seconds), end in zip(parts, ends, strict=True)]


TRUE = intervals(("SIL", 0.1), ("K", 0.05), ("AE", 0.1), ("T", 0.05), ("SIL", 0.1), ("AH", 0.1))


def test_pauses_separate_words():
    assert spoken_words(TRUE) == [["K", "AE", "T"], ["AH"]]


def test_an_alignment_agrees_with_itself():
    assert summarize([agreement(TRUE, TRUE)]) == {"equal_frames": 1.0, "median_seconds": 0.0, "within_20_ms": 1.0}


def test_a_late_phone_costs_its_frames():
    late = intervals(("SIL", 0.1), ("K", 0.08), ("AE", 0.07), ("T", 0.05), ("SIL", 0.1), ("AH", 0.1))
    equal, starts = agreement(late, TRUE)
    assert len(equal) == 50 and (~equal).sum() == 3  # frames of 10 ms
    np.testing.assert_allclose(starts, [0, 0.03, 0, 0], atol=1e-9)
    assert summarize([(equal, starts)]) == {"equal_frames": 0.94, "median_seconds": 0.0, "within_20_ms": 0.75}
