"""MP3: finds missing or wrong lengths, and files that were joined.

libsndfile takes the length from an info frame (Xing, Info, VBRI) at the beginning, which covers only the first of several
joined streams. Without an info frame, it estimates the length from the bit rate of the first frame, which is a third of the
true length for some files of variable bit rate. This module counts the frames by their headers.
"""

import re
import struct
from dataclasses import dataclass
from functools import lru_cache

from nemo_birq.data.audio.errors import JOINED, LENGTH, Remedy
from nemo_birq.data.audio.parts import Data, Layout, Part, tag_size

_BIT_RATES = {  # in 1000 bit/s; 1 is MPEG 1, 2 is MPEG 2 and 2.5
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_TAG = re.compile(rb"Xing|Info|VBRI")
_SYNC = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
_JUNK = 1024  # bytes between two frames that a decoder skips
_BIT_RATE_OF_INFO = 9  # an index with which an info frame has room for its 20 bytes at any sample rate


@dataclass
class _Stream:
    """Frames that belong together."""

    start: int
    """Position of the first frame with audio."""
    form: tuple[int, int]
    """Samples of a frame, sample rate."""
    head: int
    """Position of the info frame, or the same as ``start``."""
    announced: int | None
    """Number of frames in the info frame."""
    frames: int = 0
    end: int = 0
    lengths: tuple[int, int] = (1 << 30, 0)
    """Least and most bytes of a frame."""


def mp3_layout(data: Data, start: int) -> Layout:
    """Finds the streams of an MP3 file (MPEG 1, 2 and 2.5, layer III); finds none in other files."""
    if _fills_file(data, start):
        return Layout()
    streams = [stream for stream in _walk(data, start) if stream.frames]
    if not streams or not _frame(data[streams[0].head : streams[0].head + 4]):
        return Layout()
    ends = [stream.head for stream in streams[1:]] + [len(data)]
    last = streams[-1]
    cut_off = None
    if last.announced is not None and last.frames < last.announced - 1:
        announced, there = (n * last.form[0] / last.form[1] for n in (last.announced, last.frames))
        cut_off = f"its header announces {announced:.2f} s of audio, the file has {there:.2f} s"
    wrong = [stream.announced is None or stream.frames > stream.announced + 1 for stream in streams]
    if wrong == [False]:
        return Layout(cut_off=cut_off)
    if len(streams) == 1 and _is_guessed_right(last):
        return Layout(most_frames=last.frames * last.form[0])
    remedies = []
    if any(bad and not _is_guessed_right(stream) for bad, stream in zip(wrong, streams, strict=True)):
        remedies.append(Remedy(LENGTH, "its header has no length or a wrong one; its frames are counted"))
    if len(streams) > 1:
        remedies.append(Remedy(JOINED, f"{len(streams)} MP3 streams follow each other; all are read"))
    parts = [
        Part(stream.start, end, _info_frame(data, stream, end)) if bad else Part(stream.head, end)
        for stream, end, bad in zip(streams, ends, wrong, strict=True)
    ]
    return Layout(tuple(parts), tuple(remedies), cut_off)


def _fills_file(data: Data, start: int) -> bool:
    """Tests if the size in the info frame at the beginning is that of the whole file, so that counting is not needed."""
    frame = _frame(data[start : start + 4])
    if frame is None or bytes(data[start + frame[2] : start + frame[2] + 4]) not in (b"Xing", b"Info"):
        return False
    flags, _, length = struct.unpack(">III", bytes(data[start + frame[2] + 4 : start + frame[2] + 16]).ljust(12, b"\0"))
    return flags & 3 == 3 and abs(len(data) - start - length) <= _JUNK


def _is_guessed_right(stream: _Stream) -> bool:
    """Tests if libsndfile estimates the length well: the bit rate is constant, and frames differ by the byte of padding."""
    least, most = stream.lengths
    return stream.announced is None and most - least <= 1


def _walk(data: Data, position: int) -> list[_Stream]:
    """Finds the streams frame by frame."""
    tags = {match.start() for match in _TAG.finditer(data, position)}
    streams: list[_Stream] = []
    current: _Stream | None = None
    end = len(data)
    while position + 4 <= end:
        frame = _frame(data[position : position + 4])
        if frame is None or position + frame[0] > end:
            following = position + tag_size(data, position)
            if following == position:
                following = _next_frame(data, position + 1)
            if following - position > _JUNK or following + 4 > end:
                current = None
            position = following
            continue
        length, form, tag = frame
        if tags and (position + tag in tags or position + 36 in tags):
            current = _Stream(position + length, form, position, _announced(data, position, tag))
            streams.append(current)
        else:
            if current is None or current.form != form:
                current = _Stream(position, form, position, None)
                streams.append(current)
            least, most = current.lengths
            if not least <= length <= most:
                current.lengths = min(least, length), max(most, length)
            current.frames += 1
        position += length
        current.end = position
    return streams


def _next_frame(data: Data, position: int) -> int:
    """Returns the position of the next frame that is followed by another frame or the end."""
    for match in _SYNC.finditer(data, position):
        frame = _frame(data[match.start() : match.start() + 4])
        following = match.start() + frame[0] if frame else 0
        if frame and (following == len(data) or _frame(data[following : following + 4])):
            return match.start()
    return len(data)


def _announced(data: Data, position: int, tag: int) -> int | None:
    if data[position + 36 : position + 40] == b"VBRI":
        return struct.unpack_from(">I", data, position + 36 + 14)[0]
    flags, frames = struct.unpack_from(">II", data, position + tag + 4)
    return frames if flags & 1 else None


@lru_cache(maxsize=4096)
def _frame(header: bytes) -> tuple[int, tuple[int, int], int] | None:
    """Returns the bytes of a frame, (samples, sample rate) and the offset of a tag; None if it is not a layer III frame."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2 or header[1] & 0x18 == 0x08:
        return None
    version, bit_rate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if bit_rate in (0, 15) or rate == 3:
        return None
    kind, mono = (1 if version == 3 else 2), header[3] >> 6 == 3
    sample_rate = (44100, 48000, 32000)[rate] // {3: 1, 2: 2, 0: 4}[version]
    samples = 1152 if kind == 1 else 576
    length = samples // 8 * 1000 * _BIT_RATES[kind][bit_rate] // sample_rate + (header[2] >> 1 & 1)
    side = {(1, False): 32, (1, True): 17, (2, False): 17, (2, True): 9}[kind, mono]
    return length, (samples, sample_rate), 4 + side


def _info_frame(data: Data, stream: _Stream, end: int) -> bytes:
    """Makes an info frame with the number of frames and bytes of a stream."""
    first = bytes(data[stream.start : stream.start + 4])
    header = bytes([0xFF, first[1] | 1, _BIT_RATE_OF_INFO << 4 | first[2] & 0x0C, first[3]])
    length, _, tag = _frame(header)
    body = header.ljust(tag, b"\0") + b"Xing" + struct.pack(">III", 3, stream.frames, end - stream.start + length)
    return body.ljust(length, b"\0")
