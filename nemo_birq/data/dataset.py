"""Reads the signals of rows of an index. The dataset logs, counts and leaves out utterances that cannot be used."""

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import soxr
import torch
from nemo.utils import logging
from torch.multiprocessing.reductions import shared_cache

from nemo_birq.data.audio.errors import AudioError
from nemo_birq.data.audio.file import AudioFile, open_audio
from nemo_birq.data.audio_cache import AudioCache
from nemo_birq.data.batch import SpeechBatch
from nemo_birq.data.fetch import AheadReader, fetch_remote
from nemo_birq.data.index import Place, SpeechIndex
from nemo_birq.data.manifests import TOLERANCE
from nemo_birq.utils.terminal import printable

OPEN_FILES = 128  # shards that a process keeps open


class UnusableAudio(Exception):
    """An utterance that cannot be used, with the reason."""


class PlannedRows(list[int]):
    """Rows of a batch, with the position of the batch in the plans of all epochs.

    Args:
        rows: rows of the batch.
        position: epoch, and number of the batch in the epoch.
        following: rows that the same process has to read next, so that it can read them ahead.
    """

    def __init__(self, rows: Iterable[int], position: tuple[int, int], following: Sequence[int] = ()):
        super().__init__(rows)
        self.position, self.following = position, following


class Mixing(Protocol):
    """Adds noise to the signals of a batch; see ``mixing.SpeechMixing``."""

    def __call__(self, signals: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]: ...


class SpeechDataset(torch.utils.data.Dataset):
    """Dataset that reads a list of rows, which are counted through all indexes, as a ``SpeechBatch``.

    Args:
        indexes: the datasets.
        sample_rate: sample rate of the signals, in Hz.
        mixing: makes the noisy signals of ``PlannedRows``; None: there are none.
        seed: seed of the mixing. The position of a batch is added to it, so that a resumed run, or a run with another
            number of workers, mixes the same signals.
        cache: cache of remote audio; None: each utterance is read from its store each time.
    """

    def __init__(
        self,
        indexes: Sequence[SpeechIndex],
        sample_rate: int,
        mixing: Mixing | None = None,
        seed: int = 0,
        cache: AudioCache | None = None,
    ):
        self.indexes = indexes
        self.ends = np.cumsum([len(index) for index in indexes])
        self.sample_rate = sample_rate
        self.mixing, self.seed, self.cache = mixing, seed, cache
        self._reader = AheadReader(cache)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def place(self, row: int) -> Place:
        """Returns the place of the utterance of a row."""
        dataset = int(np.searchsorted(self.ends, row, side="right"))
        return self.indexes[dataset].place(row - (self.ends[dataset] - len(self.indexes[dataset])))

    def read(self, row: int) -> np.ndarray:
        """Reads the signal of a row; shape and errors as ``read_audio``."""
        place = self.place(row)
        return read_utterance(place, self.sample_rate, *fetch_remote([place], self.cache))

    def __getitem__(self, rows: PlannedRows | list[int]) -> SpeechBatch:
        # PyTorch frees the shared memory of a worker's tensors only at every 128th one, which would keep gigabytes of audio.
        shared_cache.free_dead_references()
        signals, names, skipped = [], [], 0
        places = [self.place(row) for row in rows]
        fetched = self._reader.fetch(places)
        if any(encoded is not None for encoded in fetched):
            self._reader.begin([self.place(row) for row in getattr(rows, "following", ())])
        for place, encoded in zip(places, fetched, strict=True):
            try:
                signals.append(read_utterance(place, self.sample_rate, encoded))
                names.append(place.name)
            except UnusableAudio as problem:
                skipped += 1
                logging.warning(printable(f"Skipped {place.name} of {place.file}: {problem}"))
        if not signals:  # every rank must take part in the step, see SpeechBatch.is_silent_stand_in
            signals = [np.zeros(self.sample_rate, np.float32)]
        lengths = [len(signal) for signal in signals]
        batch = SpeechBatch(_padded(signals, max(lengths)), torch.tensor(lengths), names, skipped, lengths)
        return batch if self.mixing is None or not names else batch._replace(**self._mix(signals, rows.position))

    def _mix(self, signals: list[np.ndarray], position: tuple[int, int]) -> dict[str, torch.Tensor | list[int] | None]:
        """Returns ``noisy`` and ``mixed`` of a batch."""
        found = self.mixing(signals, np.random.default_rng((self.seed, *position)))
        mixed = [row for row, (noisy, clean) in enumerate(zip(found, signals, strict=True)) if noisy is not clean]
        noisy = _padded([found[row] for row in mixed], max(map(len, signals))) if mixed else None
        return {"noisy": noisy, "mixed": mixed or None}


def _padded(signals: list[np.ndarray], samples: int) -> torch.Tensor:
    """Returns signals as one tensor, (B, samples) float32, with zeros at the end."""
    padded = torch.zeros(len(signals), samples)
    for target, signal in zip(padded, signals, strict=True):
        target[: len(signal)] = torch.from_numpy(signal)
    return padded


def read_utterance(place: Place, sample_rate: int, encoded: bytes | None = None) -> np.ndarray:
    """Reads the signal of an utterance; shape and errors as ``read_audio``.

    Args:
        place: place of the utterance.
        sample_rate: sample rate of the signal, in Hz.
        encoded: bytes of a remote utterance, from ``fetch.fetch_remote``; None for a local one.
    """
    if encoded is not None:
        return read_audio(encoded, place.start, place.duration, sample_rate)
    if place.file == place.name:
        return read_audio(place.file, place.start, place.duration, sample_rate)
    try:
        encoded = os.pread(_open(place.file).fileno(), place.size, place.position)
    except OSError as error:
        raise UnusableAudio(f"it cannot be read ({error})") from error
    return read_audio(encoded, place.start, place.duration, sample_rate)


def read_audio(source: str | bytes, start: float, duration: float, sample_rate: int) -> np.ndarray:
    """Reads the signal of an utterance: (samples,) float32, mono, at the sample rate.

    Args:
        source: path of a file, or an encoded file.
        start: start of the utterance, in seconds.
        duration: duration in the manifest, in seconds. For a whole file, it may be off by ``manifests.TOLERANCE``.
        sample_rate: sample rate of the signal, in Hz.

    Raises:
        UnusableAudio: the audio cannot be read or decoded, is empty, is shorter than its manifest says, or has samples
            that are not audio, see ``samples.check_samples``.
    """
    try:
        with open_audio(source) as audio:
            signal, rate = _decode(audio, start, duration), audio.header.sample_rate
    except AudioError as error:
        raise UnusableAudio(str(error)) from error
    except MemoryError as error:
        raise UnusableAudio("it does not fit into memory; lower max_duration to leave out long utterances") from error
    return signal if rate == sample_rate else soxr.resample(signal, rate, sample_rate)


def _decode(audio: AudioFile, start: float, duration: float) -> np.ndarray:
    header = audio.header
    rate, end = header.sample_rate, start + duration
    if end > header.seconds + TOLERANCE:
        raise UnusableAudio(f"it has {header.seconds:.2f} s of audio, but its manifest line ends at {end:.2f} s")
    whole = start == 0 and header.seconds - end <= TOLERANCE
    wanted = header.frames if whole else round(duration * rate)
    if wanted < 1:
        raise UnusableAudio(f"its duration in the manifest, {duration} s, is less than one sample")
    signal = audio.decode_mono(0 if whole else round(start * rate), wanted)
    if len(signal) < wanted - TOLERANCE * rate or (whole and len(signal) < wanted):
        raise UnusableAudio(f"it ends after {len(signal) / rate:.2f} of {wanted / rate:.2f} s")
    return signal


@lru_cache(maxsize=OPEN_FILES)
def _open(path: str):
    return open(path, "rb", buffering=0)  # it is closed when the cache drops it
