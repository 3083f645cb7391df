"""Files behind URLs, read through fsspec: their versions, one pass through a file, and many ranges of bytes at once.

Whole files and folders are in ``remote_files``. Credentials and further options come from where fsspec and the libraries of
the stores look for them, and nothing of them is kept.
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
"""Seconds for which a request is repeated before any work depends on it: a wrong address shows soon."""
PATIENCE = 300.0
"""Seconds for which a request is repeated later: a store may stop for minutes, and a training waits for it."""
BLOCK = 8 << 20
"""Bytes of the largest request, unless one utterance is larger."""
BLOCKS_AHEAD = 4  # of one pass, asked for at once
GAP = 256 << 10
"""Bytes that are read and thrown away rather than asked around by two requests: an utterance or two."""
IDENTITY = ("ETag", "etag", "generation", "md5Hash", "content_md5", "Content-MD5", "LastModified", "last_modified",
            "Last-Modified", "updated", "mtime", "modified", "created")  # fmt: skip
"""Keys by which the file systems of fsspec tell versions of a file."""


class Version(NamedTuple):
    """The version of a remote file."""

    size: int
    """In bytes."""
    identity: tuple[str, ...]
    """ETag, times and the like; empty where the server tells nothing."""


class Range(NamedTuple):
    """Bytes ``start`` to ``end - 1`` of a remote file."""

    url: str
    start: int
    end: int


def look(url: str, patience: float = FIRST_LOOK) -> Version:
    """Asks for the version of a file.

    Raises:
        RemoteError: the file is not there, may not be read, or its size is unknown.
        ValueError: nothing installed reads such URLs.
    """
    system, path = open_system(url)
    system.invalidate_cache()
    found = repeat(url, patience, lambda: system.info(path))
    if found.get("type") == "directory" or found.get("size") is None:
        what = "is a folder" if found.get("type") == "directory" else "has no size (the server tells no Content-Length)"
        raise RemoteError(f"{without_secrets(url)} {what}: name a file, on a server that answers requests for byte ranges")
    return Version(int(found["size"]), tuple(f"{key} {found[key]}" for key in IDENTITY if found.get(key)))


def find_files(folder: str, pattern: str) -> list[str]:
    """Finds the files of a remote folder whose names fit a pattern with ``*``, in any order; errors as ``look``."""
    system, path = open_system(folder)
    system.invalidate_cache()
    found = repeat(folder, FIRST_LOOK, lambda: system.glob(f"{path.rstrip('/')}/{pattern}"))
    return [system.unstrip_protocol(name) for name in found]


def read_ranges(wanted: Sequence[Range], patience: float = PATIENCE) -> list[bytes]:
    """Reads ranges of files, all at once; near neighbours in a file by one request.

    Raises:
        RemoteError: one of them cannot be read.
        ValueError: nothing installed reads such URLs.
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
    """Opens a file of a version for one pass from its beginning; some blocks are read ahead.

    Raises:
        RemoteError: it cannot be read, or has been replaced before the end of the block of code.
        ValueError: nothing installed reads such URLs.
    """
    with io.BufferedReader(_Pass(url, version.size), 1 << 16) as stream:
        yield stream
    if look(url, PATIENCE) != version:
        raise RemoteError(f"{without_secrets(url)} was replaced while it was read: start again once it stays as it is")


@contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """Opens a file of this machine, or one behind a URL for one pass; errors as ``open`` and ``open_stream``."""
    with open_stream(path, look(path)) if is_url(path) else open(path, "rb") as file:
        yield file


class _Pass(io.RawIOBase):
    """The bytes of a file from the first to the last."""

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
    """Adds to ``found`` the content of all blocks that can be read; then raises an error of the others, if there are any.

    A block that cannot be read by a signed URL is read through the library of its store, whose errors count.
    """
    signed = [(block, opened) for block in blocks if (opened := open_signed(block.url))]
    refused = {error.url for error in _ask(signed, found) if not may_pass(error)}
    failed = _ask([(block, open_system(block.url)) for block in blocks if block not in found], found)
    for url in {block.url for block, _ in signed} - {error.url for error in failed}:
        count_signed(url, url in refused)
    if failed:
        raise min(failed, key=may_pass)


def _ask(asked: list[tuple[Range, Opened]], found: dict[Range, bytes]) -> list[RequestError]:
    """Adds to ``found`` the content of all blocks that can be read; returns the errors of the others."""
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
                failed.append(RequestError(block.url, kind(f"{size} bytes came in place of {asked_for}")))
            else:
                found[block] = answer
    return failed
