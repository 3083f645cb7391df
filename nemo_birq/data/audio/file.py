"""The reader of audio, which opens, measures and decodes every file and every member of a shard in the package.

``open_audio`` opens a path or encoded bytes as an ``AudioFile``. It reads all formats of libsndfile, and repairs files that
libsndfile would read wrongly or in part (see ``layout``, ``samples.check_samples`` and ``channels.mix``).
"""

import mmap
import os
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from io import BytesIO
from typing import NamedTuple

import numpy as np
import soxr

from nemo_birq.data.audio.channels import mix
from nemo_birq.data.audio.errors import IN_PART, AudioError, Remedy, said_by
from nemo_birq.data.audio.layout import find_layout
from nemo_birq.data.audio.media import MediaStream
from nemo_birq.data.audio.parts import Data, Layout, PartFile
from nemo_birq.data.audio.stream import UNKNOWN, Header, Stream
from nemo_birq.data.samples import check_samples


class Decoded(NamedTuple):
    """A part of an audio file."""

    signal: np.ndarray
    """(frames, channels) float32, full scale 1."""
    sample_rate: int
    remedies: tuple[Remedy, ...] = ()


class AudioFile:
    """An open audio file. A ``with`` block closes it.

    Args:
        streams: streams of the file in their order.
        layout: their positions, and the repairs.
    """

    def __init__(self, streams: Sequence[Stream | MediaStream], layout: Layout):
        self._streams, self._layout = streams, layout
        first = streams[0].header
        self._lengths = [_frames_at(stream.header, first.sample_rate) for stream in streams]
        frames = min(sum(self._lengths), layout.most_frames or UNKNOWN)
        self.header = Header(frames, first.sample_rate, first.channels)

    @property
    def cut_off(self) -> str | None:
        """The reason why the file is shorter than its header says; None if it is not."""
        return self._layout.cut_off

    @property
    def is_plain(self) -> bool:
        """True if other programs that use libsndfile read the same audio."""
        return not self._layout.parts and not self._layout.is_media

    def __enter__(self) -> "AudioFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        for stream in self._streams:
            stream.close()

    def decode(self, first: int, frames: int, channels: tuple[int, ...] | None = None) -> Decoded:
        """Decodes ``frames`` frames from ``first`` on, or fewer if the file ends early.

        Args:
            first: number of the first frame.
            frames: number of frames.
            channels: numbers of the channels to return; None: all.

        Raises:
            AudioError: the frames cannot be decoded, or are not audio.
            MemoryError: the frames do not fit into memory.
        """
        signal = self._read(first, frames)
        if channels is not None:
            signal = signal[:, list(channels)]
        signal, scaled = check_samples(signal)
        at_end = first + frames >= self.header.frames
        remedies = [remedy for remedy in self._layout.remedies if at_end or remedy.kind != IN_PART]
        return Decoded(signal, self.header.sample_rate, (*remedies, *([scaled] if scaled else [])))

    def decode_mono(self, first: int, frames: int) -> np.ndarray:
        """Decodes as ``decode`` does and returns the mixed channels, (frames,) float32."""
        return mix(self.decode(first, frames).signal)[0]

    def _read(self, first: int, frames: int) -> np.ndarray:
        if len(self._streams) == 1:
            return self._streams[0].read(first, frames)
        found, begin = [], 0
        for stream, length in zip(self._streams, self._lengths, strict=True):
            low, high = max(first - begin, 0), min(first + frames - begin, length)
            if low < high:
                found.append(self._read_stream(stream, low, high - low, length))
                if len(found[-1]) < high - low:
                    break
            begin += length
        return np.concatenate(found) if found else np.zeros((0, self.header.channels), np.float32)

    def _read_stream(self, stream: Stream | MediaStream, first: int, frames: int, length: int) -> np.ndarray:
        """Returns a part of one of several streams, with the sample rate and the channels of the first stream."""
        own, rate, channels = stream.header, self.header.sample_rate, self.header.channels
        if own.sample_rate == rate:
            signal = stream.read(first, frames)
        else:
            signal = soxr.resample(stream.read(0, own.frames), own.sample_rate, rate)[:length]
            signal = np.pad(signal, ((0, length - len(signal)), (0, 0)))[first : first + frames]
        return signal if own.channels == channels else np.repeat(mix(signal)[0][:, None], channels, axis=1)


def open_audio(source: str | bytes) -> AudioFile:
    """Opens a file or encoded audio.

    Raises:
        AudioError: it cannot be read, or has no audio.
    """
    layout = _layout_of_file(source, *_version(source)) if isinstance(source, str) else find_layout(source)
    if layout.parts:
        audio = _open_parts(_data(source), layout)
    else:
        audio = AudioFile([MediaStream(source) if layout.is_media else Stream(_opener(source))], layout)
    if audio.header.frames == 0:
        audio.close()
        raise AudioError("empty", "it holds no audio")
    return audio


def measure(source: str | bytes) -> Header:
    """Measures a file or encoded audio.

    Raises:
        AudioError: as ``open_audio``, or it is shorter than its header says.
    """
    with open_audio(source) as audio:
        if audio.cut_off:
            raise AudioError("truncated", audio.cut_off)
        return audio.header


def _frames_at(header: Header, sample_rate: int) -> int:
    return header.frames if header.sample_rate == sample_rate else round(header.seconds * sample_rate)


def _opener(source: str | bytes) -> Callable[[], bytes | BytesIO]:
    return partial(os.fsencode, source) if isinstance(source, str) else partial(BytesIO, source)


def _version(path: str) -> tuple[int, int]:
    try:
        stat = os.stat(path)
    except OSError as error:
        raise AudioError("unreadable", f"it cannot be opened: {said_by(error)}") from error
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=1024)
def _layout_of_file(path: str, size: int, changed: int) -> Layout:
    """Returns the layout of a version of a file. The cache avoids a new search for each part of a long recording."""
    return find_layout(_data(path)) if size else Layout()


def _data(source: str | bytes) -> Data:
    if isinstance(source, bytes):
        return source
    try:
        with open(source, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise AudioError("unreadable", f"it cannot be opened: {said_by(error)}") from error


def _open_parts(data: Data, layout: Layout) -> AudioFile:
    """Opens the parts up to the first that cannot be read, which is recorded as a remedy."""
    streams: list[Stream] = []
    for part in layout.parts:
        try:
            streams.append(Stream(partial(PartFile, data, part)))
        except AudioError as error:
            if not streams:
                raise
            reason = f"only the first {len(streams)} of {len(layout.parts)} streams are read; the next one is {error}"
            return AudioFile(streams, layout._replace(remedies=(*layout.remedies, Remedy(IN_PART, reason))))
    return AudioFile(streams, layout)
