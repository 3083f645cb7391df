"""Mixes several channels to one."""

import numpy as np

from nemo_birq.data.audio.errors import CANCELLING, Remedy

_CANCELLED = 0.2
"""Least power of the mean of all channels, relative to the expectation for independent channels, which is half of their
power for two channels. Below a fifth of it, the channels are copies of each other with opposite signs."""


def mix(signal: np.ndarray) -> tuple[np.ndarray, Remedy | None]:
    """Returns the mean of all channels, or the loudest channel if the channels cancel each other.

    Args:
        signal: (frames, channels) float32.

    Returns:
        (frames,) float32, and the remedy if the channels cancel each other.
    """
    if signal.shape[1] == 1:
        return signal[:, 0], None
    mean = signal.mean(axis=1)
    flat, channels = np.ascontiguousarray(signal).ravel(), signal.shape[1]
    power = np.dot(flat, flat)
    if np.dot(mean, mean) >= _CANCELLED * power / channels**2 or power == 0:
        return mean, None
    loudest = int(np.square(signal).sum(axis=0).argmax())
    reason = f"its {channels} channels cancel each other; only channel {loudest} is used"
    return np.ascontiguousarray(signal[:, loudest]), Remedy(CANCELLING, reason)
