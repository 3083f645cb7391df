"""Several channels to one."""

import numpy as np

from nemo_birq.data.audio.errors import CANCELLING, Remedy

_CANCELLED = 0.2
"""Power of the mean of all channels, in units of what channels that know nothing of each other leave. The mean of two such
channels has half of their power. Below a fifth of that, the channels are copies of each other with opposite signs."""


def mix(signal: np.ndarray) -> tuple[np.ndarray, Remedy | None]:
    """Mixes channels: their mean, or the loudest one where the mean would be silence.

    Args:
        signal: (frames, channels) float32.

    Returns:
        (frames,) float32, and the remedy where the channels cancel.
    """
    if signal.shape[1] == 1:
        return signal[:, 0], None
    mean = signal.mean(axis=1)
    flat, channels = np.ascontiguousarray(signal).ravel(), signal.shape[1]
    power = np.dot(flat, flat)
    if np.dot(mean, mean) >= _CANCELLED * power / channels**2 or power == 0:
        return mean, None
    loudest = int(np.square(signal).sum(axis=0).argmax())
    reason = f"its {channels} channels cancel each other; channel {loudest} alone is taken"
    return np.ascontiguousarray(signal[:, loudest]), Remedy(CANCELLING, reason)
