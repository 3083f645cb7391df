"""The utterances of a manifest or of tar shards, in order, with the lines of their manifest.

Work is divided into parts, which are sequences of neighbouring utterances and are processed one after the other. Within a
part, utterances are batched by length. A part does not depend on other parts, and only one is in memory.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lhotse.dataset.sampling.base import TimeConstraint
from lhotse.dataset.sampling.dynamic import DurationBatcher
from nemo.utils import logging
from omegaconf import OmegaConf

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.data.build_index import entries_by_shard
from nemo_birq.data.dataset import SpeechDataset
from nemo_birq.data.factory import build_dataloader
from nemo_birq.data.index import Place, SpeechIndex
from nemo_birq.data.index_rows import Problems
from nemo_birq.data.manifests import iterate_manifest
from nemo_birq.data.remote import find_files, open_file
from nemo_birq.data.sources import Source, read_sources
from nemo_birq.utils.urls import find_secret_problem, folder_of, is_url, join

FILE_ENDINGS = (".json", ".jsonl", ".gz", ".tar")
"""Suffixes of URLs that are not folders."""


class Part(NamedTuple):
    """The utterances ``first`` to ``last - 1``."""

    number: int
    first: int
    last: int


class SpeechData(NamedTuple):
    """The utterances of a corpus, numbered from 0 in the order of manifests, shards and members."""

    sources: list[Source]
    indexes: list[SpeechIndex]
    sample_rate: int

    @property
    def durations(self) -> np.ndarray:
        """Returns the durations, (utterances,) float64, in seconds."""
        return np.concatenate([index.durations for index in self.indexes])

    def places(self) -> Iterator[Place]:
        """Yields the place of each utterance, in order."""
        return (index.place(row) for index in self.indexes for row in range(len(index)))

    def lines(self) -> Iterator[dict]:
        """Yields the manifest line of each utterance, in order, with absolute paths of single files."""
        return chain.from_iterable(map(_lines_of, self.sources, self.indexes))

    @property
    def fingerprint(self) -> str:
        """Returns a hash of manifests and usable utterances, which does not depend on the location of the audio."""
        digest = hashlib.sha256()
        for source, index in zip(self.sources, self.indexes, strict=True):
            for path in source.manifest_paths:
                with open_file(path) as file:
                    digest.update(file.read())
            digest.update(index.durations.tobytes())
            digest.update(index.shards.tobytes())
        return digest.hexdigest()[:16]


def open_data(data: str, tars: str | None, sample_rate: int) -> SpeechData:
    """Opens the utterances with an index, which is built if manifests or shards are new or have changed.

    Args:
        data: manifest, pattern of sharded manifests (``manifest__OP_0..7_CL_.json``) with ``tars``, or folder of shards of
            ``birq make-shards``. Each may be a URL.
        tars: tar shards, such as ``audio__OP_0..7_CL_.tar``.
        sample_rate: sample rate in Hz; other audio is resampled.

    Raises:
        FileNotFoundError: a manifest or shard does not exist.
        ValueError: manifests and shards do not fit, or too many utterances cannot be used; see ``data.factory``.
    """
    if Path(data).is_dir() or (is_url(data) and not data.endswith(FILE_ENDINGS)):
        if tars is not None:
            raise ValueError(f"{data} is a folder of shards: remove the names of the tar files")
        data, tars = _remote_shards_in(data) if is_url(data) else _shards_in(Path(data))
    elif data.endswith(".tar"):
        raise ValueError(f"{data} is a tar file: give the folder that holds audio_0.tar, or its manifest and --tars")
    elif tars is None:
        _check_not_tarred(data)
    config = OmegaConf.create(
        {"use_lhotse": True, "manifest_filepath": data, "tarred_audio_filepaths": tars, "batch_duration": 3600.0}
    )
    loader = build_dataloader(config, sample_rate, rank=0, world_size=1, training=False)
    return SpeechData(read_sources(config), list(loader.dataset.indexes), sample_rate)


def _shards_in(folder: Path) -> tuple[str, str]:
    count = len(list(folder.glob("audio_*.tar")))
    if count == 0:
        below = sorted({path.parent for path in folder.rglob("audio_*.tar")})
        hint = f", such as {', '.join(map(str, below[:5]))}" if below else ""
        raise FileNotFoundError(
            f"there are no shards audio_0.tar, audio_1.tar, ... in {folder}: give a folder of shards{hint}"
        )
    manifests = (path.stem.removeprefix("manifest_") for path in (folder / "sharded_manifests").glob("manifest_*.json"))
    missing = sorted(name for number in manifests if not (folder / (name := f"audio_{number}.tar")).is_file())
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing[:5])}, of which sharded_manifests has manifests; copy the folder again"
        )
    return _patterns(str(folder), count)


def _remote_shards_in(folder: str) -> tuple[str, str]:
    folder = folder.rstrip("/")
    if (problem := find_secret_problem(folder)) is not None:
        raise ValueError(problem)
    count = len(find_files(folder, "audio_*.tar"))
    if count == 0:
        raise FileNotFoundError(
            f"there are no shards audio_0.tar, audio_1.tar, ... in {folder}, or its server does not list them: give the "
            "manifests, and the tar files with --tars"
        )
    return _patterns(folder, count)


def _patterns(folder: str, count: int) -> tuple[str, str]:
    return (
        f"{folder}/sharded_manifests/manifest__OP_0..{count - 1}_CL_.json",
        f"{folder}/audio__OP_0..{count - 1}_CL_.tar",
    )


def _check_not_tarred(manifest: str) -> None:
    paths = Source(manifest, None, None).manifest_paths
    if not is_url(paths[0]) and not Path(paths[0]).is_file():
        raise FileNotFoundError(f"{paths[0]} does not exist: give a manifest, or a folder of shards")
    entry = next((line.entry for line in iterate_manifest(paths[0]) if not line.problem), {})
    if "shard_id" in entry and not os.path.isfile(Path(paths[0]).parent / entry["audio_filepath"]):
        raise ValueError(
            f"manifest {manifest} names members of tar shards ({entry['audio_filepath']}): give the folder that holds "
            "audio_0.tar, or the names of the tar files with --tars"
        )


def _lines_of(source: Source, index: SpeechIndex) -> Iterator[dict]:
    yield from _lines_of_files(source, index) if source.tars is None else _lines_of_shards(source, index)


def _lines_of_files(source: Source, index: SpeechIndex) -> Iterator[dict]:
    row = 0
    for manifest in source.manifest_paths:
        folder = folder_of(manifest)
        for _, entry, problem in iterate_manifest(manifest):
            if problem or row == len(index):
                continue
            path = join(folder, entry["audio_filepath"])
            if path == index.place(row).name:  # the index has no other utterances
                yield entry | {"audio_filepath": path}
                row += 1


def _lines_of_shards(source: Source, index: SpeechIndex) -> Iterator[dict]:
    bounds = np.searchsorted(index.shards, np.arange(len(source.tar_paths) + 1))
    for number, lines in enumerate(entries_by_shard(source, Problems())):
        found: dict[tuple[str, float], dict] = {}
        for entry in lines.entries:
            found.setdefault((entry["audio_filepath"], float(entry.get("offset") or 0.0)), entry)
        for row in range(bounds[number], bounds[number + 1]):
            place = index.place(row)
            yield found[place.name, place.start]


def divide(durations: np.ndarray, seconds: float) -> list[Part]:
    """Divides the utterances into parts of about ``seconds`` of audio each."""
    numbers = ((np.cumsum(durations) - durations) // seconds).astype(np.int64)
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    ends = [*starts[1:], len(durations)]
    return [Part(i, int(first), int(last)) for i, (first, last) in enumerate(zip(starts, ends, strict=True))]


@dataclass(slots=True)
class _Item:
    """The attributes of an utterance that Lhotse needs."""

    row: int
    duration: float


def batches_by_length(
    rows: Iterable[int], durations: np.ndarray, batch_seconds: float, longest_first: bool = True
) -> list[list[int]]:
    """Divides utterances, sorted by length, into batches.

    Args:
        rows: numbers of utterances; utterances of equal length keep this order.
        durations: durations of all utterances, in seconds.
        batch_seconds: seconds of audio in a batch, with padding; a longer utterance is a batch by itself.
        longest_first: begin with the longest utterances, so that a batch that does not fit into memory fails at once.
    """
    sign = -1 if longest_first else 1
    items = sorted((_Item(row, float(durations[row])) for row in rows), key=lambda item: sign * item.duration)
    constraint = TimeConstraint(max(batch_seconds, items[0].duration, items[-1].duration))
    return [[item.row for item in batch] for batch in DurationBatcher(items, constraint=constraint)]


class RowBatch(NamedTuple):
    """A batch of utterances with their numbers."""

    rows: list[int]
    speech: SpeechBatch


class RowDataset(torch.utils.data.Dataset):
    """Dataset from numbers of utterances to ``RowBatch``; unreadable utterances are logged and skipped."""

    def __init__(self, data: SpeechData):
        self.speech = SpeechDataset(data.indexes, data.sample_rate)

    def __getitem__(self, rows: list[int]) -> RowBatch:
        batch = self.speech[rows]
        if batch.skipped:  # rare: read again to find out which, without repeating the warnings
            with logging.temp_verbosity(logging.ERROR):
                rows = [row for row in rows if not self.speech[[row]].skipped]
        return RowBatch(rows, batch)


def make_loader(data: SpeechData, batches: Sequence[list[int]], workers: int) -> torch.utils.data.DataLoader:
    """Returns a loader of batches in order, decoded in ``workers`` processes."""
    return torch.utils.data.DataLoader(
        RowDataset(data), sampler=batches, batch_size=None, num_workers=workers, pin_memory=torch.cuda.is_available()
    )
