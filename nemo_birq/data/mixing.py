"""Adds noise and other speakers to the input of the masked pass: the denoising task of NEST (arXiv 2408.13106).

The labels are those of the clean signal, so the encoder learns to follow the main speaker. Names and meaning of the
settings are those of NeMo's ``MultiSpeakerNoiseAugmentation``. NeMo's code is not used, because it draws from generators
whose state is in no checkpoint, adds noise at full level to every signal that it does not mix, and fails if a segment is
empty.
"""

import numpy as np
from nemo.utils import logging

from nemo_birq.config_checks.mixing import MixingSettings
from nemo_birq.data.dataset import SpeechDataset, UnusableAudio
from nemo_birq.utils.terminal import printable

TRIES = 10
"""Number of unusable noise clips after which a signal stays without noise."""


class SpeechMixing:
    """Adds a part of a noise clip, or of other utterances of the batch, to some signals of a batch.

    Args:
        settings: shares and ranges.
        noise: clips to draw from; None: only speech is mixed in.
    """

    def __init__(self, settings: MixingSettings, noise: SpeechDataset | None):
        self.settings = settings
        self.noise = noise

    def __call__(self, signals: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """Returns mixed copies of signals, each (samples,) float32; a signal to which nothing is added is not copied.

        Args:
            signals: all utterances of a batch.
            rng: generator of all random choices.
        """
        return [self._mixed(number, signals, rng) for number in range(len(signals))]

    def _mixed(self, number: int, signals: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
        settings, signal = self.settings, signals[number]
        if rng.random() >= settings.prob:
            return signal
        length = max(1, int(len(signal) * rng.uniform(settings.min_mix_rate, settings.max_mix_rate)))
        count = int(rng.integers(settings.min_num_segments, settings.max_num_segments + 1))
        lengths = [int(one) for one in rng.multinomial(length, [1 / count] * count) if one > 0]
        others = [one for index, one in enumerate(signals) if index != number]
        if rng.random() < settings.noise_ratio:
            sources, low, high = self._noise(rng), settings.min_r_noise, settings.max_r_noise
        else:
            speakers = int(rng.integers(settings.min_num_speakers, settings.max_num_speakers + 1))
            chosen = rng.permutation(len(others))[:speakers]
            sources, low, high = [others[index] for index in chosen], settings.min_r_speech, settings.max_r_speech
        if not sources:
            return signal
        interference = np.zeros_like(signal)
        starts = np.sort(rng.integers(0, len(signal) - sum(lengths) + 1, size=len(lengths)))
        done = 0
        for index, (start, one) in enumerate(zip(starts, lengths, strict=True)):
            interference[start + done : start + done + one] = _segment(sources[index % len(sources)], one, rng)
            done += one
        return signal + _gain(signal, interference, rng.uniform(low, high)) * interference

    def _noise(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Returns one clip; an empty list if ``TRIES`` clips in a row cannot be used."""
        for _ in range(TRIES):
            row = int(rng.integers(len(self.noise)))
            try:
                return [self.noise.read(row)]
            except UnusableAudio as problem:
                logging.warning(printable(f"Skipped noise {self.noise.place(row).name}: {problem}"))
        return []


def _segment(source: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a random part of a signal, which is repeated if it is too short."""
    if len(source) < length:
        source = np.tile(source, -(-length // len(source)))
    start = int(rng.integers(len(source) - length + 1))
    return source[start : start + length]


def _gain(signal: np.ndarray, interference: np.ndarray, ratio: float) -> np.float32:
    """Returns the factor of the interference for which the energy of the whole signal is ``ratio`` dB above its energy."""
    energy, other = (float(np.square(one, dtype=np.float64).sum()) for one in (signal, interference))
    return np.float32(np.sqrt(energy / other * 10 ** (-ratio / 10)) if other > 0 else 0.0)
