"""Audio of containers that libsndfile does not read (m4a, mp4, webm, ...), by FFmpeg, with the optional extra ``ffmpeg``."""

from io import BytesIO

import numpy as np

from nemo_birq.data.audio.errors import AudioError, said_by
from nemo_birq.data.audio.stream import Header
from nemo_birq.data.audio.suffixes import MEDIA_REMEDY

_WARM_UP = 1.0  # seconds before a part that are decoded and dropped, because codecs refer to earlier frames
_JITTER = 0.01  # seconds by which containers round the time of a frame
_LOST_END = 0.1  # seconds by which the container may announce more audio than the codec yields


def is_media(data: bytes) -> bool:
    """Tests if the first 16 bytes of a file belong to a container or codec that only FFmpeg reads."""
    return (
        data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide")  # MPEG-4 and QuickTime
        or data[:4] in (b"\x1aE\xdf\xa3", b"0&\xb2u", b"FLV\x01")  # Matroska and WebM, Windows Media, Flash
        or data[:5] == b"#!AMR"
        or data[:2] in (b"\xff\xf0", b"\xff\xf1", b"\xff\xf8", b"\xff\xf9", b"\x0bw")  # AAC and AC-3 without a container
        or (data[:4] == b"RIFF" and data[8:12] == b"AVI ")
    )


class MediaStream:
    """The first audio stream of a file, with the methods of ``stream.Stream``.

    Raises:
        AudioError: PyAV is not installed, FFmpeg does not read the file, or it has no audio stream.
    """

    def __init__(self, source: str | bytes):
        try:
            import av
        except ImportError as error:
            raise AudioError("unreadable", f"a media file that libsndfile does not read: {MEDIA_REMEDY}") from error
        self._error, self._resampler = av.FFmpegError, av.AudioResampler
        try:
            self._container = av.open(BytesIO(source) if isinstance(source, bytes) else source)
            if not self._container.streams.audio:
                self.close()
                raise AudioError("empty", "it has no audio stream")
            self._stream = self._container.streams.audio[0]
            self._origin, frames = self._measure()
        except self._error as error:
            raise AudioError("unreadable", f"no audio that FFmpeg reads: {said_by(error)}") from error
        context = self._stream.codec_context
        self.header = Header(frames, context.sample_rate, len(context.layout.channels))

    def read(self, first: int, frames: int) -> np.ndarray:
        """Decodes ``frames`` frames from ``first`` on as (frames, channels) float32, or fewer if the stream ends early.

        Raises:
            AudioError: the frames cannot be decoded.
        """
        try:
            return self._read(first, frames)
        except self._error as error:
            raise AudioError("unreadable", f"cannot be decoded: {said_by(error)}") from error

    def close(self) -> None:
        self._container.close()

    def _measure(self) -> tuple[float, int]:
        """Returns the time of the first sample in seconds and the number of samples, from the packets."""
        stream, last = self._stream, 0
        start = stream.start_time or 0
        for packet in self._container.demux(stream):
            if packet.pts is not None:
                last = max(last, packet.pts + (packet.duration or 0))
        seconds = float((last - start) * stream.time_base)
        return float(start * stream.time_base), max(0, round(seconds * stream.codec_context.sample_rate))

    def _read(self, first: int, frames: int) -> np.ndarray:
        stream, rate = self._stream, self.header.sample_rate
        begin = max(0.0, self._origin + first / rate - _WARM_UP) if first else self._origin
        self._container.seek(int(begin / stream.time_base), stream=stream, backward=True, any_frame=False)
        stream.codec_context.flush_buffers()
        planar = self._resampler(format="fltp", layout=stream.codec_context.layout.name, rate=rate)
        signal = np.zeros((frames, self.header.channels), np.float32)
        expected, reached = None, 0
        for frame in self._container.decode(stream):
            position = expected
            if frame.pts is not None:
                told = round((float(frame.pts * stream.time_base) - self._origin) * rate) - first
                position = told if expected is None or abs(told - expected) > _JITTER * rate else expected
            for part in planar.resample(frame):
                samples = part.to_ndarray().T
                low, high = max(position, 0), min(position + len(samples), frames)
                if low < high:
                    signal[low:high] = samples[low - position : high - position]
                    reached = high
                position += len(samples)
            expected = position
            if expected >= frames:
                break
        at_end = first + frames >= self.header.frames
        return signal if at_end and frames - reached <= _LOST_END * rate else signal[:reached]
