"""Reading of files behind URLs through fsspec: versions, one sequential pass, and many byte ranges in parallel.

``remote_files`` copies, lists and removes whole files and folders.
"""

import io
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

from fsspec.utils import merge_offset_ranges

from nemo_birq.data.file_systems import Opened, count_signed, open_signed, open_system
from nemo_birq.data.retries import NoRangesError, RemoteError, RequestError, ShorterFileError, may_pass, repeat
from nemo_birq.utils.urls import is_url, without_secrets

FIRST_LOOK = 30.0
"""Seconds for which a request is repeated before a command begins its work, so that a wrong address fails early."""
PATIENCE = 300.0
"""Seconds for which a request is repeated later: a training waits for a store that stops for minutes."""
BLOCK = 8 << 20
"""Largest size of a request in bytes, unless one utterance is larger."""
BLOCKS_AHEAD = 4  # parallel requests of a sequential pass
GAP = 256 << 10
"""Largest gap in bytes between two ranges that one request reads; one or two utterances."""
IDENTITY = ("ETag", "etag", "generation", "md5Hash", "content_md5", "Content-MD5", "LastModified", "last_modified",
            "Last-Modified", "updated", "mtime", "modified", "created")  # fmt: skip
"""Keys of the version of a file in the results of fsspec's file systems."""


class Version(NamedTuple):
    """The version of a remote file."""

    size: int
    """Size in bytes."""
    identity: tuple[str, ...]
    """ETag, modification time and similar values; empty if the server sends none."""


class Range(NamedTuple):
    """The bytes from ``start`` to ``end - 1`` of a remote file."""

    url: str
    start: int
    end: int


def look(url: str, patience: float = FIRST_LOOK) -> Version:
    """Requests the version of a file.

    Args:
        url: URL of the file.
        patience: seconds for which a failed request is repeated.

    Raises:
        RemoteError: the file does not exist, access is refused, or the server sends no size.
        ValueError: no installed package reads such URLs.
    """
    system, path = open_system(url)
    system.invalidate_cache()
    found = repeat(url, patience, lambda: system.info(path))
    if found.get("type") == "directory" or found.get("size") is None:
        what = "is a folder" if found.get("type") == "directory" else "has no size (the server sends no Content-Length)"
        raise RemoteError(f"{without_secrets(url)} {what}: give a file, on a server that answers requests for byte ranges")
    return Version(int(found["size"]), tuple(f"{key} {found[key]}" for key in IDENTITY if found.get(key)))


def find_files(folder: str, pattern: str) -> list[str]:
    """Returns the files of a remote folder whose names match a pattern with ``*``, in any order; errors as ``look``."""
    system, path = open_system(folder)
    system.invalidate_cache()
    found = repeat(folder, FIRST_LOOK, lambda: system.glob(f"{path.rstrip('/')}/{pattern}"))
    return [system.unstrip_protocol(name) for name in found]


def read_ranges(wanted: Sequence[Range], patience: float = PATIENCE) -> list[bytes]:
    """Reads byte ranges of files in parallel; one request reads neighbouring ranges of a file.

    Args:
        wanted: ranges.
        patience: seconds for which failed requests are repeated.

    Returns:
        The content of each range.

    Raises:
        RemoteError: a range cannot be read.
        ValueError: no installed package reads such URLs.
    """
    if not wanted:
        return []
    columns = [list(column) for column in zip(*wanted, strict=True)]
    blocks = [Range(*block) for block in zip(*merge_offset_ranges(*columns, max_gap=GAP, max_block=BLOCK), strict=True)]
    blocks.sort()
    found: dict[Range, bytes] = {}
    repeat(blocks[0].url, patience, lambda: _fetch([block for block in blocks if block not in found], found))
    parts = []
    for url, start, end in wanted:
        block = blocks[bisect_right(blocks, (url, start, sys.maxsize)) - 1]
        parts.append(found[block][start - block.start : end - block.start])
    return parts


@contextmanager
def open_stream(url: str, version: Version) -> Iterator[BinaryIO]:
    """Opens a file for one sequential pass that reads some blocks ahead.

    Raises:
        RemoteError: the file cannot be read, or has another version at the end of the ``with`` block.
        ValueError: no installed package reads such URLs.
    """
    with io.BufferedReader(_Pass(url, version.size), 1 << 16) as stream:
        yield stream
    if look(url, PATIENCE) != version:
        raise RemoteError(
            f"{without_secrets(url)} was replaced while it was read: run the command again when nothing writes to it"
        )


@contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """Opens a local file, or a remote one for one sequential pass; errors as ``open`` and ``open_stream``."""
    with open_stream(path, look(path)) if is_url(path) else open(path, "rb") as file:
        yield file


class _Pass(io.RawIOBase):
    """A raw stream over the blocks of a remote file."""

    def __init__(self, url: str, size: int):
        self._blocks, self._rest = self._read(url, size), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._blocks, b""))
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._rest))
        target[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    @staticmethod
    def _read(url: str, size: int) -> Iterator[bytes]:
        starts = range(0, size, BLOCK)
        for first in range(0, len(starts), BLOCKS_AHEAD):
            yield from read_ranges([Range(url, s, min(s + BLOCK, size)) for s in starts[first : first + BLOCKS_AHEAD]])


def _fetch(blocks: list[Range], found: dict[Range, bytes]) -> None:
    """Adds the content of all readable blocks to ``found``, and raises an error of the others.

    If a signed URL fails, the library of the store reads the block, and its errors count.
    """
    signed = [(block, opened) for block in blocks if (opened := open_signed(block.url))]
    refused = {error.url for error in _ask(signed, found) if not may_pass(error)}
    failed = _ask([(block, open_system(block.url)) for block in blocks if block not in found], found)
    for url in {block.url for block, _ in signed} - {error.url for error in failed}:
        count_signed(url, url in refused)
    if failed:
        raise min(failed, key=may_pass)


def _ask(asked: list[tuple[Range, Opened]], found: dict[Range, bytes]) -> list[RequestError]:
    """Adds the content of all readable blocks to ``found``, and returns the errors of the others."""
    systems: dict[int, list[tuple[Range, Opened]]] = {}
    for block, opened in asked:
        systems.setdefault(id(opened.system), []).append((block, opened))
    failed = []
    for of_one in systems.values():
        paths, starts, ends = zip(*((opened.path, block.start, block.end) for block, opened in of_one), strict=True)
        answers = of_one[0][1].system.cat_ranges([*paths], [*starts], [*ends], on_error="return")
        for (block, _), answer in zip(of_one, answers, strict=True):
            if isinstance(answer, BaseException):
                failed.append(RequestError(block.url, answer))
            elif (size := len(answer)) != (asked_for := block.end - block.start):
                kind = NoRangesError if size > asked_for else ShorterFileError
                failed.append(RequestError(block.url, kind(f"the answer has {size} bytes instead of {asked_for}")))
            else:
                found[block] = answer
    return failed
