"""Checks decoded samples, for every reader of audio."""

import math

import numpy as np

from nemo_birq.data.audio.errors import INTEGERS, AudioError, Remedy

MAX_AMPLITUDE = 100.0
"""Largest absolute sample that is accepted as audio; full scale is 1.

Float audio may exceed full scale by a small factor after tracks were mixed or a lossy codec overshot. 100 is 40 dB above
full scale, which such audio does not reach. Larger samples are damaged data (1e30), whose squares overflow, or integers of
24 or 32 bits that were stored as floats (8388608). These are rejected, because the divisor is not certain.
"""
FULL_SCALE_16 = 32768.0
"""Divisor of integers of 16 bits."""
LEAST_VALUES = 8
"""Least number of different values in integers stored as floats. A square wave, whose samples may be whole, has two."""


def check_samples(signal: np.ndarray) -> tuple[np.ndarray, Remedy | None]:
    """Checks decoded samples, and divides integers of 16 bits that were stored as floats by 32768.

    Args:
        signal: float array of any shape, full scale 1.

    Returns:
        The samples, and the remedy if they were divided.

    Raises:
        AudioError: samples are not finite or exceed ``MAX_AMPLITUDE``.
    """
    if not signal.size:
        return signal, None
    peak = float(max(signal.max(), -signal.min()))  # NaN if one of them is
    if not math.isfinite(peak):
        count = int((~np.isfinite(signal)).sum())
        raise AudioError("not a number", f"{count} samples are not finite numbers (NaN or infinity)")
    if 1.0 < peak <= FULL_SCALE_16 and _are_integers(signal):
        reason = f"its samples are whole numbers up to {peak:.6g}, stored as floats; they are divided by {FULL_SCALE_16:g}"
        return signal / np.float32(FULL_SCALE_16), Remedy(INTEGERS, reason)
    if peak > MAX_AMPLITUDE:
        raise AudioError(
            "too loud",
            f"its samples reach {peak:.6g}, above the limit of {MAX_AMPLITUDE:g} times full scale; they may be integers "
            "that were stored as floats",
        )
    return signal, None


def _are_integers(signal: np.ndarray) -> bool:
    return np.array_equal(signal, np.rint(signal)) and len(np.unique(signal)) >= LEAST_VALUES
