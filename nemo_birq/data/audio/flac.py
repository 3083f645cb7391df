"""FLAC: the length that a stream written to a pipe does not have in its header, and files that were joined."""

import re

from nemo_birq.data.audio.errors import JOINED, LENGTH, Remedy
from nemo_birq.data.audio.parts import Data, Layout, Part, PartFile
from nemo_birq.data.audio.stream import Stream

_STREAM = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")  # with STREAMINFO, which is always first and of 34 bytes
_TOTAL = 21  # position of the number of samples, 36 bits


def flac_layout(data: Data, start: int) -> Layout:
    """Finds the streams of a FLAC file; a missing number of samples is counted by decoding.

    Raises:
        AudioError: a stream without number of samples cannot be decoded to its end.
    """
    if _total(data, start) and data.find(b"fLaC", start + 4) < 0:
        return Layout()
    starts = [match.start() for match in _STREAM.finditer(data, start)]
    if not starts or (len(starts) == 1 and _total(data, start)):
        return Layout()
    parts, remedies = [], []
    for begin, end in zip(starts, [*starts[1:], len(data)], strict=True):
        part = Part(begin, end)
        if not _total(data, begin):
            part = _with_total(data, part)
            remedies = [Remedy(LENGTH, "its header has no number of samples; it is read to its end")]
        parts.append(part)
    if len(parts) > 1:
        remedies.append(Remedy(JOINED, f"{len(parts)} FLAC streams follow each other; all are read"))
    return Layout(tuple(parts), tuple(remedies))


def _total(data: Data, start: int) -> int:
    return int.from_bytes(data[start + _TOTAL : start + _TOTAL + 5], "big") & 0xFFFFFFFFF


def _with_total(data: Data, part: Part) -> Part:
    stream = Stream(lambda: PartFile(data, part))
    stream.close()
    position = part.start + _TOTAL
    patched = int.from_bytes(data[position : position + 5], "big") | stream.header.frames
    return Part(position + 5, part.end, bytes(data[part.start : position]) + patched.to_bytes(5, "big"))
