"""A random subset of utterances with a given number of hours."""

from collections.abc import Sequence

import numpy as np


def draw_hours(durations: Sequence[float] | np.ndarray, hours: float | None, seed: int = 0) -> list[int]:
    """Draws utterances at random until they reach a number of hours.

    The last utterance drawn crosses the limit: the subset has at least ``hours``, and has less without that utterance. The
    same durations, in the same order, and the same seed give the same subset.

    Args:
        durations: seconds of each utterance, (N,).
        hours: of audio; None takes all utterances, and so does more than there is.
        seed: of the draw.

    Returns:
        numbers of the utterances, in rising order.
    """
    if hours is None:
        return list(range(len(durations)))
    rows = np.random.default_rng(seed).permutation(len(durations))
    drawn = np.asarray(durations, dtype=np.float64)[rows]
    before = np.cumsum(drawn) - drawn
    return np.sort(rows[before < 3600 * hours]).tolist()
