"""Streams inside a file, each of which a decoder reads as a separate file."""

import io
from mmap import mmap
from typing import NamedTuple

from nemo_birq.data.audio.errors import Remedy

Data = bytes | mmap
"""An encoded file, in memory or mapped."""


class Part(NamedTuple):
    """One stream: bytes ``start`` to ``end`` of a file, after a corrected header."""

    start: int
    end: int
    header: bytes = b""


class Layout(NamedTuple):
    """The streams of a file."""

    parts: tuple[Part, ...] = ()
    """Empty if libsndfile reads the file as it is."""
    remedies: tuple[Remedy, ...] = ()
    cut_off: str | None = None
    """The reason why the file is shorter than its header says."""
    most_frames: int | None = None
    """Frames of the whole file, if libsndfile estimates too many."""
    is_media: bool = False
    """True if only FFmpeg reads the file."""


class PartFile(io.RawIOBase):
    """A part as a separate file, without a copy of its bytes."""

    def __init__(self, data: Data, part: Part):
        self._header, self._body = part.header, memoryview(data)[part.start : part.end]
        self._size, self._position = len(part.header) + len(self._body), 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer) -> int:
        target, first, border = memoryview(buffer).cast("B"), self._position, len(self._header)
        taken = self._header[first : first + len(target)]
        target[: len(taken)] = taken
        begin = max(0, first - border)
        rest = self._body[begin : begin + len(target) - len(taken)]
        target[len(taken) : len(taken) + len(rest)] = rest
        self._position += len(taken) + len(rest)
        return len(taken) + len(rest)


def tag_size(data: Data, position: int) -> int:
    """Returns the size in bytes of the ID3v2 tag at a position; 0 if there is none."""
    if bytes(data[position : position + 3]) != b"ID3" or len(data) < position + 10:
        return 0
    a, b, c, d = data[position + 6 : position + 10]
    return 10 + (a << 21 | b << 14 | c << 7 | d)
