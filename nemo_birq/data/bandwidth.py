"""The highest frequency of a recording. Above it, audio that was resampled from a lower rate has only rounding noise.

Per-feature normalization scales the mel bins of that noise to unit variance, and the anchor labels follow it.
"""

import math
from collections.abc import Mapping

import numpy as np

NARROW = 0.8
"""Audio is narrow-band if it ends below this share of the highest frequency; resampling itself removes up to a tenth."""
MAX_SHARE = 0.05
"""Share of the hours that may be narrow-band without a warning."""
_FRAME, _FRAMES, _BANDS = 512, 64, 32  # samples of a frame, most frames measured, bands of a spectrum
_LOUD = 0.9  # quantile over frames
_WINDOW = np.hanning(_FRAME).astype(np.float32)
# Least energy of a band, relative to all bands and to the rounding noise of 16 bits. In read speech, all bands up to 7 kHz
# exceed the first limit. After resampling from 8 kHz, bands above 4 kHz are 10 dB below it or have only rounding noise.
_LEAST_SHARE, _LEAST_NOISE = 1e-7, 4.0
_ROUNDING = 2.0**-30 / 12


def find_bandwidth(signal: np.ndarray, sample_rate: int) -> float | None:
    """Finds the frequency above which a signal is practically empty.

    Args:
        signal: (samples,) float32, full scale 1.
        sample_rate: in Hz.

    Returns:
        Frequency in Hz, in steps of 1/32 of half the sample rate; None if the signal is silent or has under 512 samples.
    """
    number = len(signal) // _FRAME
    if number == 0:
        return None
    chosen = np.linspace(0, number - 1, min(_FRAMES, number)).astype(int)
    spectrum = np.fft.rfft(signal[: number * _FRAME].reshape(number, _FRAME)[chosen] * _WINDOW, axis=1)
    bands = (spectrum.real**2 + spectrum.imag**2)[:, : _FRAME // 2].reshape(len(chosen), _BANDS, -1).sum(axis=2)
    energy = np.quantile(bands, _LOUD, axis=0)  # a few clipped samples would add energy at all frequencies to a sum
    energy[0] = 0  # ignores an offset
    noise = _ROUNDING * float((_WINDOW**2).sum()) * (_FRAME // 2 // _BANDS)
    heard = np.flatnonzero(energy > max(_LEAST_SHARE * energy.sum(), _LEAST_NOISE * noise))
    return (int(heard[-1]) + 1) * sample_rate / 2 / _BANDS if len(heard) else None


def narrow_band_share(seconds: Mapping[float, float], highest: float) -> float:
    """Returns the share of audio that ends below ``NARROW`` of the highest frequency in use.

    Args:
        seconds: duration of the audio of each bandwidth in Hz.
        highest: highest frequency of the features, in Hz.
    """
    narrow = sum(amount for bandwidth, amount in seconds.items() if bandwidth < NARROW * highest)
    return narrow / max(sum(seconds.values()), 1e-9)


def in_words(seconds: Mapping[float, float], highest: float) -> str | None:
    """Returns a warning with the share of narrow-band audio and the keys to set; None if the share is below ``MAX_SHARE``.

    See ``narrow_band_share`` for the arguments.
    """
    share = narrow_band_share(seconds, highest)
    if share <= MAX_SHARE:
        return None
    narrow = {bandwidth: amount for bandwidth, amount in seconds.items() if bandwidth < NARROW * highest}
    usual = max(narrow, key=narrow.__getitem__)
    resampled = ", or make shards with --sample-rate 8000 and set model.sample_rate=8000" if usual <= 4000 else ""
    return (
        f"{share:.1%} of the hours are narrow-band: most of them have only noise above {usual:.0f} Hz, and labels of "
        f"features up to {highest:.0f} Hz follow it. Set +model.preprocessor.highfreq={100 * math.floor(usual / 105)}"
        f"{resampled} (docs/data.md, Narrow-band audio)"
    )
