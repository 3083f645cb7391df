"""One stream, which libsndfile decodes."""

from collections.abc import Callable
from typing import IO, NamedTuple

import numpy as np
import soundfile

from nemo_birq.data.audio.errors import AudioError, said_by

UNKNOWN = 2**62
"""Lengths in frames from this value on are unknown; libsndfile returns 2^63 - 1 for them."""
_BLOCK = 65536  # frames


class Header(NamedTuple):
    """Length and format of audio."""

    frames: int
    sample_rate: int
    channels: int

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate


class _Forward(soundfile.SoundFile):
    """A file without soundfile's seek after each read, which fails at the end of some files (FLAC without length, DWVW)."""

    def seekable(self) -> bool:
        return False


class Stream:
    """A stream, from which any part can be decoded; parts in ascending order are fastest.

    Args:
        source: returns a path or a new file at each call.

    Raises:
        AudioError: libsndfile does not read it.
    """

    def __init__(self, source: Callable[[], bytes | IO[bytes]]):
        self._source = source
        self._open()
        frames = self._file.frames
        if frames >= UNKNOWN:
            frames = self._count()
        self.header = Header(frames, self._file.samplerate, self._file.channels)

    def read(self, first: int, frames: int) -> np.ndarray:
        """Decodes ``frames`` frames from ``first`` on as (frames, channels) float32, or fewer if the stream ends early.

        Raises:
            AudioError: the frames cannot be decoded.
            MemoryError: the frames do not fit into memory.
        """
        try:
            # MP3 samples are rounded differently after a seek. It always seeks, so that a part is the same in any order.
            if first != self._position or self._file.format == "MP3":
                self._go_to(first)
            signal = self._file.read(frames, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise AudioError("unreadable", f"cannot be decoded: {said_by(error)}") from error
        self._position = first + len(signal)
        return signal

    def close(self) -> None:
        self._file.close()

    def _open(self) -> None:
        try:
            self._file, self._position = _Forward(self._source()), 0
        except (soundfile.SoundFileError, OSError) as error:
            raise AudioError("unreadable", f"no audio that libsndfile reads: {said_by(error)}") from error

    def _go_to(self, first: int) -> None:
        try:
            self._position = self._file.seek(first)
        except soundfile.SoundFileError:  # a codec without seeking, such as GSM 6.10
            if first < self._position:
                self.close()
                self._open()
            while self._position < first and self._skip(min(_BLOCK, first - self._position)):
                pass

    def _skip(self, frames: int) -> int:
        skipped = len(self._file.read(frames, dtype="float32", always_2d=True))
        self._position += skipped
        return skipped

    def _count(self) -> int:
        try:
            while self._skip(_BLOCK):
                pass
        except soundfile.SoundFileError as error:
            seconds = self._position / self._file.samplerate
            raise AudioError("unreadable", f"cannot be decoded beyond {seconds:.2f} s: {said_by(error)}") from error
        counted = self._position
        self.close()
        self._open()
        return counted
