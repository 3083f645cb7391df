"""The highest frequency of a recording: audio that was resampled from a lower rate holds rounding noise above it.

Per-feature normalization lifts the mel bins of that noise to unit variance, and the anchor labels follow it.
"""

import math
from collections.abc import Mapping

import numpy as np

NARROW = 0.8
"""Share of the frequencies of a sample rate below which audio is narrow-band; resampling itself takes up to a tenth."""
MAX_SHARE = 0.05
"""Share of the hours that may be narrow-band without a word."""
_FRAME, _FRAMES, _BANDS = 512, 64, 32  # samples, frames that are measured, bands of a spectrum
_LOUD = 0.9  # quantile over frames
_WINDOW = np.hanning(_FRAME).astype(np.float32)
# Energy of a band: parts of the whole, and of the rounding noise of 16 bits. In read speech all bands to 7 kHz are above the
# first; after resampling from 8 kHz those above 4 kHz are 10 dB below it, or hold what rounding adds.
_LEAST_SHARE, _LEAST_NOISE = 1e-7, 4.0
_ROUNDING = 2.0**-30 / 12


def find_bandwidth(signal: np.ndarray, sample_rate: int) -> float | None:
    """Returns the frequency in Hz above which a signal is practically empty, in steps of 1/32 of all frequencies.

    Args:
        signal: (samples,) float32, full scale 1.
        sample_rate: in Hz.

    Returns:
        None where nothing can be said: the signal is silent or shorter than 512 samples.
    """
    number = len(signal) // _FRAME
    if number == 0:
        return None
    chosen = np.linspace(0, number - 1, min(_FRAMES, number)).astype(int)
    spectrum = np.fft.rfft(signal[: number * _FRAME].reshape(number, _FRAME)[chosen] * _WINDOW, axis=1)
    bands = (spectrum.real**2 + spectrum.imag**2)[:, : _FRAME // 2].reshape(len(chosen), _BANDS, -1).sum(axis=2)
    energy = np.quantile(bands, _LOUD, axis=0)  # not the sum, to which a few clipped samples add at all frequencies
    energy[0] = 0  # an offset says nothing
    noise = _ROUNDING * float((_WINDOW**2).sum()) * (_FRAME // 2 // _BANDS)
    heard = np.flatnonzero(energy > max(_LEAST_SHARE * energy.sum(), _LEAST_NOISE * noise))
    return (int(heard[-1]) + 1) * sample_rate / 2 / _BANDS if len(heard) else None


def narrow_band_share(seconds: Mapping[float, float], highest: float) -> float:
    """Returns the share of audio that ends below ``NARROW`` of the highest frequency in use.

    Args:
        seconds: of audio by its bandwidth in Hz.
        highest: frequency in Hz that features reach.
    """
    narrow = sum(amount for bandwidth, amount in seconds.items() if bandwidth < NARROW * highest)
    return narrow / max(sum(seconds.values()), 1e-9)


def in_words(seconds: Mapping[float, float], highest: float) -> str | None:
    """Returns how much audio is narrow-band and what to set; None where it is at most ``MAX_SHARE``.

    See ``narrow_band_share`` for the arguments.
    """
    share = narrow_band_share(seconds, highest)
    if share <= MAX_SHARE:
        return None
    narrow = {bandwidth: amount for bandwidth, amount in seconds.items() if bandwidth < NARROW * highest}
    usual = max(narrow, key=narrow.__getitem__)
    resampled = ", or make shards with --sample-rate 8000 and set model.sample_rate=8000" if usual <= 4000 else ""
    return (
        f"{share:.1%} of the hours are narrow-band: most of them hold nothing but noise above {usual:.0f} Hz, and labels of "
        f"features up to {highest:.0f} Hz follow it. Set +model.preprocessor.highfreq={100 * math.floor(usual / 105)}"
        f"{resampled} (docs/data.md, Narrow-band audio)"
    )
