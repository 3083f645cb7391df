"""Ogg: files with several streams in sequence, as internet radio and ``cat`` write them, and page checksums."""

import re
import struct
import zlib

from nemo_birq.data.audio.errors import JOINED, Remedy
from nemo_birq.data.audio.parts import Data, Layout, Part

_FIRST_PAGE = re.compile(rb"OggS\x00[\x02\x03\x06\x07]")
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def ogg_layout(data: Data, start: int) -> Layout:
    """Finds the streams of an Ogg file."""
    found = [match.start() for match in _FIRST_PAGE.finditer(data, start)]
    if len(found) < 2:
        return Layout()
    starts, end = [], None
    for position in found:
        size = _page_size(data, position)
        if not _has_right_checksum(bytes(data[position : position + size])):
            continue  # bytes of audio that look like a page
        if position != end:  # the first pages of interleaved streams, such as audio and video, follow each other
            starts.append(position)
        end = position + size
    if len(starts) < 2:
        return Layout()
    parts = tuple(Part(*bounds) for bounds in zip(starts, [*starts[1:], len(data)], strict=True))
    return Layout(parts, (Remedy(JOINED, f"{len(parts)} Ogg streams follow each other; all are read"),))


def _page_size(data: Data, position: int) -> int:
    segments = data[position + 26] if position + 26 < len(data) else 0
    return 27 + segments + sum(data[position + 27 : position + 27 + segments])


def _has_right_checksum(page: bytes) -> bool:
    return len(page) > 27 and page[22:26] == struct.pack("<I", ogg_checksum(page[:22] + bytes(4) + page[26:]))


def with_serial(data: bytes, serial: int) -> bytes:
    """Returns an Ogg file with the given serial number in its pages, because libsndfile takes one from the clock."""
    ogg = bytearray(data)
    start = 0
    while start < len(ogg):
        end = start + _page_size(ogg, start)
        struct.pack_into("<I", ogg, start + 14, serial)
        struct.pack_into("<I", ogg, start + 22, 0)
        struct.pack_into("<I", ogg, start + 22, ogg_checksum(bytes(ogg[start:end])))
        start = end
    return bytes(ogg)


def ogg_checksum(page: bytes) -> int:
    """Returns the CRC-32 as Ogg defines it: zlib's polynomial, but most significant bit first, and no inversion."""
    mirrored = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
