"""FLAC: finds the length of a stream that was written to a pipe and has no length in its header."""

from nemo_birq.data.audio.errors import LENGTH, Remedy
from nemo_birq.data.audio.parts import Data, Layout, Part, PartFile
from nemo_birq.data.audio.stream import Stream

_TOTAL = 21  # position of the number of samples, 36 bits


def flac_layout(data: Data, start: int) -> Layout:
    """Finds the stream of a FLAC file. If the header has no number of samples, they are counted by decoding.

    Raises:
        AudioError: a stream without a number of samples cannot be decoded to its end.
    """
    if _total(data, start) or len(data) < start + _TOTAL + 5:
        return Layout()
    part = _with_total(data, Part(start, len(data)))
    return Layout((part,), (Remedy(LENGTH, "its header has no number of samples; it is read to its end"),))


def _total(data: Data, start: int) -> int:
    return int.from_bytes(data[start + _TOTAL : start + _TOTAL + 5], "big") & 0xFFFFFFFFF


def _with_total(data: Data, part: Part) -> Part:
    stream = Stream(lambda: PartFile(data, part))
    stream.close()
    position = part.start + _TOTAL
    patched = int.from_bytes(data[position : position + 5], "big") | stream.header.frames
    return Part(position + 5, part.end, bytes(data[part.start : position]) + patched.to_bytes(5, "big"))
