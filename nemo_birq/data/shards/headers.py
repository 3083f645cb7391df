"""Reads the lengths of audio files from their headers."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from typing import NamedTuple

from nemo_birq.data.audio.errors import AudioError
from nemo_birq.data.audio.file import measure
from nemo_birq.data.audio.stream import Header
from nemo_birq.data.shards.recipes.inputs import real_path
from nemo_birq.data.shards.recordings import NO_FILE, local_recordings
from nemo_birq.data.shards.segments import Skipped
from nemo_birq.utils.urls import is_url

_FILES_KNOWN = 100_000  # that a process remembers, because segments of a recording need not follow each other


class InputFile(NamedTuple):
    """A file of the input."""

    header: Header | Skipped
    real: str
    """Path with all links resolved; a URL is unchanged."""


def look_up(build: str, paths: Sequence[str]) -> Iterator[InputFile]:
    """Yields the header and the real path of each file; new remote files are copied ahead.

    Args:
        build: name of the build, within which files do not change.
        paths: local paths and URLs, which may repeat.

    Raises:
        RemoteError, ValueError: as ``local_recordings``.
    """
    known = _known_files(build)
    unknown = [path for path in dict.fromkeys(paths) if path not in known]
    with closing(local_recordings(unknown)) as recordings:
        for path in paths:
            if path not in known:
                known[path] = InputFile(_header(path, next(recordings)), path if is_url(path) else real_path(path))
            yield known[path]
    while len(known) > _FILES_KNOWN:
        del known[next(iter(known))]


@lru_cache(maxsize=1)
def _known_files(_build: str) -> dict[str, InputFile]:
    return {}


def _header(path: str, recording: str | AudioError) -> Header | Skipped:
    return Skipped(path, recording.kind, str(recording)) if isinstance(recording, AudioError) else read_header(recording)


def read_header(path: str) -> Header | Skipped:
    """Returns the header of a file, or the reason why it cannot be used, with its path as the name."""
    if not os.path.isfile(path):
        return Skipped(path, "missing", NO_FILE)
    try:
        return measure(path)
    except AudioError as error:
        return Skipped(path, error.kind, str(error))
