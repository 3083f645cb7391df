"""WAV: finds lengths that the writing program did not fill in, and files that were joined."""

import re
import struct

from nemo_birq.data.audio.errors import IN_PART, JOINED, LENGTH, Remedy
from nemo_birq.data.audio.parts import Data, Layout, Part

_UNKNOWN = b"\xff\xff\xff\xff"  # with this length, libsndfile reads to the end of the file
_NOT_ZERO = re.compile(rb"[^\0]")
_SLACK = 0x10000
"""Bytes by which placeholders differ from 2 GiB: 0x7FFFF000 (SoX), 0x7FFF0000 (GStreamer), 0x80000000 (arecord)."""
_HEADER = 65536  # bytes in which the format is searched
_NOTICED = 0.2  # seconds after the audio that are reported


def wav_layout(data: Data, start: int) -> Layout:
    """Finds the audio of a WAV file, or of several that were joined."""
    audio = _audio(data, start)
    if audio is None:
        return Layout()  # libsndfile reports the problem
    position, announced = audio
    there, riff = len(data) - position, _length(data, start + 4)
    if announced == 0 and there and not _are_chunks(data, position):
        header = bytes(data[start : start + 4]) + _UNKNOWN + bytes(data[start + 8 : position - 4]) + _UNKNOWN
        remedy = Remedy(LENGTH, "its header has length 0; it is read to the end of the file")
        return Layout((Part(position, len(data), header),), (remedy,))
    if announced > there:
        if riff in (0, 0xFFFFFFFF) or _is_placeholder(announced):
            return Layout(remedies=(Remedy(LENGTH, f"the length in its header, {announced:#x}, is a placeholder"),))
        return Layout(cut_off=f"its header announces {announced} bytes of audio, the file has {there}")
    rest = position + announced + announced % 2
    if bytes(data[rest : rest + 4]) == b"RIFF" and _audio(data, rest):
        following = wav_layout(data, rest)
        parts = (Part(start, rest), *(following.parts or (Part(rest, len(data)),)))
        others = [remedy for remedy in following.remedies if remedy.kind != JOINED]
        joined = Remedy(JOINED, f"{len(parts)} WAV files follow each other; all are read")
        return Layout(parts, (joined, *others), following.cut_off)
    seconds = (len(data) - rest) / max(1, _bytes_per_second(data, start))
    if announced and seconds > _NOTICED and not _are_chunks(data, rest):
        reason = f"{len(data) - rest} bytes beyond the length in its header are not read, {seconds:.2f} s if they are audio"
        return Layout(remedies=(Remedy(IN_PART, reason),))
    return Layout()


def _audio(data: Data, start: int) -> tuple[int, int] | None:
    """Returns position and announced length of the audio in bytes; None without audio."""
    position = start + 12
    while position + 8 <= len(data):
        length = _length(data, position + 4)
        if data[position : position + 4] == b"data":
            return position + 8, length
        position += 8 + length + length % 2
    return None


def _length(data: Data, position: int) -> int:
    return struct.unpack_from("<I", data, position)[0]


def _bytes_per_second(data: Data, start: int) -> int:
    position = data.find(b"fmt ", start, start + _HEADER)
    return _length(data, position + 16) if 0 <= position <= len(data) - 20 else 0


def _is_placeholder(announced: int) -> bool:
    return abs(announced - 0x80000000) <= _SLACK or announced >= 0xFFFFFF00


def _are_chunks(data: Data, position: int) -> bool:
    """Tests if only chunks and zeros follow."""
    while position + 8 <= len(data):
        name, length = bytes(data[position : position + 4]), _length(data, position + 4)
        if not all(0x20 <= byte < 0x7F for byte in name) or position + 8 + length > len(data):
            return _NOT_ZERO.search(data, position) is None
        position += 8 + length + length % 2
    return True
