"""The index: the place of each utterance, in a memory-mapped table that all processes of a machine share.

With the index, an epoch is planned from durations alone, an utterance of a tar shard is one read at a known position, and no
process holds a manifest in memory. The index is built once for each version of the manifests and shards and stored in a
cache folder (``NEMO_BIRQ_CACHE``, by default ``~/.cache/nemo_birq``).
"""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from filelock import FileLock
from nemo.utils import logging

from nemo_birq.data.build_index import build_table
from nemo_birq.data.members import find_versions
from nemo_birq.data.remote import Version
from nemo_birq.data.sources import Source
from nemo_birq.data.tables import cache_folder, is_whole, map_table, write_table
from nemo_birq.utils.urls import find_secret_problem, is_url

FORMAT = 6  # version of the table; part of its name, so that tables of other versions are not read


class Place(NamedTuple):
    """Place of an utterance."""

    name: str
    """Member of a shard, or the path of a single file."""
    file: str
    """The shard, or the same path."""
    position: int
    """Position of the encoded audio in the file, in bytes."""
    size: int
    """Size of the encoded audio, in bytes."""
    start: float
    """Start of the utterance in the audio, in seconds."""
    duration: float
    """Duration of the utterance in seconds."""
    checksum: int | None = None
    """CRC-32 of the encoded audio of a remote file; None for local files."""


class SpeechIndex:
    """The utterances of a dataset, as rows 0 to N-1 in the order of shards and members.

    Args:
        path: table of the index, an Arrow file that ``open_index`` has written.
    """

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return SpeechIndex, (self.path,)  # another process maps the file itself

    @cached_property
    def _table(self) -> pa.RecordBatch:
        return map_table(self.path)

    @cached_property
    def _metadata(self) -> dict:
        return json.loads(self._table.schema.metadata[b"birq"])

    def __len__(self) -> int:
        return self._table.num_rows

    @cached_property
    def durations(self) -> np.ndarray:
        """(N,) float64, seconds."""
        return self._table.column("duration").to_numpy()

    @cached_property
    def shards(self) -> np.ndarray:
        """(N,) int32, number of the shard, or of the manifest for single files."""
        return self._table.column("shard").to_numpy()

    @property
    def problems(self) -> list[str]:
        """Descriptions of the utterances that cannot be read; the first ones, if there are many."""
        return self._metadata["problems"]

    @property
    def num_lost(self) -> int:
        """Number of utterances that cannot be read."""
        return self._metadata["num_lost"]

    @property
    def num_left_out(self) -> int:
        """Number of lines that ``_skipme`` or ``validation_status`` excludes."""
        return self._metadata["num_left_out"]

    def place(self, row: int) -> Place:
        """Returns the place of utterance ``row``."""
        name, shard, *others = (column[row].as_py() for column in self._table.columns)
        shards = self._metadata["shards"]
        return Place(name, shards[shard] if shards else name, *others)


def open_index(source: Source) -> SpeechIndex:
    """Opens the index of a dataset; builds it if its manifests or shards are new or have changed.

    Args:
        source: the dataset.

    Raises:
        FileNotFoundError, ValueError: see ``build_index.build_table``; or a URL contains a secret.
        RemoteError: a remote manifest or shard does not exist or cannot be read.
        PermissionError: the cache folder cannot be written.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermissionError(
            f"cannot write the index of {source.manifest} to {folder} ({error}); set NEMO_BIRQ_CACHE to another folder"
        ) from error
    versions = find_versions(_checked_files(source))
    path = folder / f"{_fingerprint(source, versions)}.arrow"
    with FileLock(path.with_suffix(".lock")):  # one rank of a machine builds the index, and the others wait
        if not is_whole(path):
            if path.exists():
                logging.warning(f"The index {path} of {source.manifest} is damaged or incomplete: it is built again")
            write_table(build_table(source, versions), path)
    return SpeechIndex(path)


def _checked_files(source: Source) -> list[str]:
    files = [*source.manifest_paths, *source.tar_paths]
    for path in files:
        if (problem := find_secret_problem(path)) is not None:
            raise ValueError(problem)
        if not is_url(path) and not os.path.isfile(path):
            raise FileNotFoundError(f"{os.path.abspath(path)} does not exist (named by {source.tars or source.manifest})")
    return files


def _fingerprint(source: Source, versions: Mapping[str, Version]) -> str:
    """Returns a hash of names, sizes and times (or the versions of remote files) of the manifests and shards."""
    what: list = [FORMAT, source.manifest, source.tars]
    for path in (*source.manifest_paths, *source.tar_paths):
        if is_url(path):
            what.append((path, versions[path]))
        else:
            stat = os.stat(path)
            what.append((os.path.abspath(path), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]
