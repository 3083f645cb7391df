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
    powers = np.array([np.dot(channel, channel) for channel in signal.T])
    if np.dot(mean, mean) >= _CANCELLED * powers.mean() / signal.shape[1] or not powers.any():
        return mean, None
    loudest = int(powers.argmax())
    reason = f"its {signal.shape[1]} channels cancel each other; channel {loudest} alone is taken"
    return np.ascontiguousarray(signal[:, loudest]), Remedy(CANCELLING, reason)
