"""Decoding, conversion and encoding of one piece of audio."""

import io
import os
import struct
import zlib
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from nemo_birq.data.manifests import TOLERANCE
from nemo_birq.data.samples import find_bad_samples
from nemo_birq.data.shards.cut import Piece
from nemo_birq.data.shards.segments import said_by

CODECS = ("flac", "opus", "wav")
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
FULL_SCALE = 32767 / 32768  # the largest sample of 16 bits, as soundfile gives it


class BadAudioError(Exception):
    """A piece that cannot be used."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


class Decoded(NamedTuple):
    """A piece as it is in its file."""

    signal: np.ndarray
    """float32 of shape [frames, channels], full scale 1."""
    sample_rate: int

    def clipped_samples(self) -> int:
        """Samples at full scale."""
        return int((np.abs(self.signal) >= FULL_SCALE).sum())


def decode(piece: Piece) -> Decoded:
    """Reads a piece of a file.

    Raises:
        BadAudioError: it cannot be decoded, is shorter than its header says, or holds samples that are no audio.
    """
    try:
        with soundfile.SoundFile(os.fsencode(piece.path)) as file:
            file.seek(piece.start)
            signal = file.read(piece.frames, dtype="float32", always_2d=True)
            rate = file.samplerate
    except (soundfile.SoundFileError, OSError) as error:
        raise BadAudioError("unreadable", f"cannot be decoded: {said_by(error)}") from error
    if len(signal) < piece.frames - TOLERANCE * rate or not len(signal):
        raise BadAudioError("truncated", f"{len(signal) / rate:.2f} s of {piece.seconds:.2f} s can be decoded")
    if piece.channels is not None:
        signal = signal[:, list(piece.channels)]
    bad = find_bad_samples(signal)
    if bad is not None:
        raise BadAudioError(*bad)
    return Decoded(signal, rate)


def to_mono(decoded: Decoded, sample_rate: int) -> np.ndarray:
    """The mean of all channels at another rate: float32 of shape [samples]."""
    mono = decoded.signal.mean(axis=1)
    return mono if decoded.sample_rate == sample_rate else soxr.resample(mono, decoded.sample_rate, sample_rate)


def encode(signal: np.ndarray, sample_rate: int, codec: str, serial: int) -> bytes:
    """An audio file; the same signal and serial number give the same bytes.

    Args:
        signal: floats of shape [samples], full scale 1.
        codec: flac or wav, with 16 bits, or opus in Ogg.
        serial: of the Ogg stream.
    """
    buffer = io.BytesIO()
    if codec == "opus":
        soundfile.write(buffer, signal, sample_rate, format="OGG", subtype="OPUS")
        return with_serial(buffer.getvalue(), serial)
    # libsndfile would scale by 32767 while it divides by 32768: this way 16 bits stay the 16 bits they were.
    samples = np.clip(np.rint(signal * 32768.0), -32768, 32767).astype(np.int16)
    soundfile.write(buffer, samples, sample_rate, format=codec.upper(), subtype="PCM_16")
    return buffer.getvalue()


def with_serial(data: bytes, serial: int) -> bytes:
    """An Ogg file with the given serial number in its pages; libsndfile takes one from the clock."""
    ogg = bytearray(data)
    start = 0
    while start < len(ogg):
        lacing = ogg[start + 27 : start + 27 + ogg[start + 26]]
        end = start + 27 + len(lacing) + sum(lacing)
        struct.pack_into("<I", ogg, start + 14, serial)
        struct.pack_into("<I", ogg, start + 22, 0)
        struct.pack_into("<I", ogg, start + 22, ogg_checksum(bytes(ogg[start:end])))
        start = end
    return bytes(ogg)


_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def ogg_checksum(page: bytes) -> int:
    """CRC-32 as Ogg defines it: zlib's polynomial, but most significant bit first, and no inversion."""
    mirrored = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
