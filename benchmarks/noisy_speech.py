"""Makes noise for training, and noisy copies of a test set, for the measurement in docs/noise.md.

    python -m benchmarks.noisy_speech CORPUS

The output is CORPUS/noise/noise.json, recordings of artificial noise, and CORPUS/noisy_test/<kind>_<dB>.json, the test set
with other noise of the same kinds and with other speakers of the test set. The same speech gives the same files.
"""

from pathlib import Path

import click
import numpy as np
import soundfile as sf
from scipy.signal import lfilter

from nemo_birq.data.json_lines import to_line
from nemo_birq.data.manifests import read_manifest
from nemo_birq.utils.files import write_text

RATE = 16_000  # Hz
CLIPS, CLIP_SECONDS = 60, 12.0
CONDITIONS = (("noise", 20), ("noise", 10), ("noise", 0), ("speech", 10), ("speech", 0))
"""Kinds of interference, and ratios of the energies of utterance and interference in dB."""
LEVEL = 0.05  # root mean square of a clip of noise


def coloured(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Makes noise of varying level whose power falls with a random power of the frequency, (samples,) float64."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.maximum(np.fft.rfftfreq(samples, 1 / RATE), 20.0)
    noise = np.fft.irfft(spectrum * frequency ** (-rng.uniform(0, 2) / 2), samples)
    swell = np.interp(np.arange(samples), np.linspace(0, samples, 9), rng.uniform(0.3, 1.0, 9))
    return noise * swell


def hum(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Makes the hum of a machine: harmonics of a slightly varying frequency, with weak white noise."""
    base = rng.uniform(45, 400) * (1 + 0.02 * np.cumsum(rng.standard_normal(samples)) / np.sqrt(samples))
    phase = 2 * np.pi * np.cumsum(base) / RATE
    harmonics = sum(rng.uniform(0.1, 1.0) / number * np.sin(number * phase + rng.uniform(0, 6)) for number in range(1, 12))
    return harmonics + 0.1 * rng.standard_normal(samples)


def clatter(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Makes knocks at random times, each a short resonance, with weak coloured noise."""
    knocks = (rng.random(samples) < rng.uniform(2, 12) / RATE) * rng.exponential(1.0, samples)
    angle, radius = 2 * np.pi * rng.uniform(200, 3000) / RATE, np.exp(-1 / (RATE * rng.uniform(0.003, 0.03)))
    ringing = lfilter([1.0], [1.0, -2 * radius * np.cos(angle), radius**2], knocks)
    quiet = coloured(samples, rng)
    return ringing / max(ringing.std(), 1e-9) + 0.1 * quiet / quiet.std()


MAKES = (coloured, hum, clatter)


def clip(number: int, seed: int) -> np.ndarray:
    """Makes a clip of noise of ``CLIP_SECONDS`` at ``LEVEL``, (samples,) float32."""
    rng = np.random.default_rng([seed, number])
    noise = MAKES[number % len(MAKES)](int(CLIP_SECONDS * RATE), rng)
    return np.clip(noise / noise.std() * LEVEL, -1, 1).astype(np.float32)


def over(signal: np.ndarray, interference: np.ndarray, decibels: float, rng: np.random.Generator) -> np.ndarray:
    """Adds interference to a whole signal; returns (samples,) float32, scaled down if it would clip."""
    start = rng.integers(0, len(interference))
    rolled = np.resize(np.roll(interference, -start), len(signal))
    power = np.mean(signal.astype(np.float64) ** 2) / max(np.mean(rolled.astype(np.float64) ** 2), 1e-12)
    mixed = signal + rolled * np.sqrt(power / 10 ** (decibels / 10))
    return (mixed / max(1.0, np.abs(mixed).max())).astype(np.float32)


def write_noise(folder: Path) -> Path:
    """Writes all clips of noise for training, and returns their manifest."""
    lines = []
    for number in range(CLIPS):
        name = f"noise_{number:03d}.flac"
        sf.write(folder / name, clip(number, seed=0), RATE)
        lines.append({"audio_filepath": name, "duration": CLIP_SECONDS})
    write_text(folder / "noise.json", "".join(map(to_line, lines)))
    return folder / "noise.json"


@click.command(help=__doc__)
@click.argument("corpus", type=click.Path(exists=True, path_type=Path))
def main(corpus: Path) -> None:
    (corpus / "noise").mkdir()
    write_noise(corpus / "noise")
    test = read_manifest(str(corpus / "test" / "test.json"))
    signals = [sf.read(corpus / "test" / line["audio_filepath"], dtype="float32")[0] for line in test]
    speakers = [line["speaker"] for line in test]
    for kind, decibels in CONDITIONS:
        folder = corpus / "noisy_test" / f"{kind}_{decibels}"
        folder.mkdir(parents=True)
        lines = []
        for number, (line, signal) in enumerate(zip(test, signals, strict=True)):
            rng = np.random.default_rng([1, number])
            others = [index for index, speaker in enumerate(speakers) if speaker != speakers[number]]
            interference = clip(number, seed=1) if kind == "noise" else signals[rng.choice(others)]
            name = f"{folder.name}/{Path(line['audio_filepath']).stem}.flac"
            sf.write(folder.parent / name, over(signal, interference, decibels, rng), RATE)
            lines.append(line | {"audio_filepath": name})
        write_text(folder.with_suffix(".json"), "".join(map(to_line, lines)))


if __name__ == "__main__":
    main()
