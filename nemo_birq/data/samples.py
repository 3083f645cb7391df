"""The check of decoded samples, for every reader of audio."""

import math

import numpy as np

MAX_AMPLITUDE = 100.0
"""Largest absolute sample that is taken for audio; full scale is 1.

Float audio may exceed full scale by a factor of a few, where tracks were mixed or a lossy codec overshoots. 100 is 40 dB
above full scale, which no such audio reaches. Integers that were stored as floats are beyond it, of 16 bits (32768) and of
24 bits (8388608), and so are damaged data (1e30), whose squares overflow. Nothing is scaled: the right factor is not known.
"""


def find_bad_samples(signal: np.ndarray) -> tuple[str, str] | None:
    """Returns kind and reason where samples (of any shape, full scale 1) are no audio, else None."""
    if not signal.size:
        return None
    peak = float(max(signal.max(), -signal.min()))  # NaN if one of them is
    if not math.isfinite(peak):
        return "not a number", f"{int((~np.isfinite(signal)).sum())} samples are not finite numbers (NaN or infinity)"
    if peak > MAX_AMPLITUDE:
        return "too loud", (
            f"its samples reach {peak:.6g}, where full scale is 1 and the limit {MAX_AMPLITUDE:g}: are they integers, "
            "stored as floats?"
        )
    return None
