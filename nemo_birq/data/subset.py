"""A random subset of utterances with a given number of hours."""

from collections.abc import Sequence

import numpy as np


def draw_hours(durations: Sequence[float] | np.ndarray, hours: float | None, seed: int = 0) -> list[int]:
    """Draws utterances at random until they reach a number of hours.

    The last utterance drawn crosses the limit: the subset has at least ``hours``, and has less without that utterance. The
    same durations, in the same order, and the same seed give the same subset.

    Args:
        durations: seconds of each utterance, (N,).
        hours: hours of audio; None, or more than there is, takes all utterances.
        seed: seed of the draw.

    Returns:
        Numbers of the utterances, in ascending order.
    """
    if hours is None:
        return list(range(len(durations)))
    rows = np.random.default_rng(seed).permutation(len(durations))
    drawn = np.asarray(durations, dtype=np.float64)[rows]
    before = np.cumsum(drawn) - drawn
    return np.sort(rows[before < 3600 * hours]).tolist()
