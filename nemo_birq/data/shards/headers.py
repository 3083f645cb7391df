"""How long audio files are, from their headers."""

import os
import re
from typing import NamedTuple

import soundfile

from nemo_birq.data.shards.segments import Skipped, said_by
from nemo_birq.data.shards.workers import advance

_CUT_OFF = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_LENGTH = 0xFFFFFF00  # of a wav that was written to a pipe: ffmpeg could not go back to fill the length in


class Header(NamedTuple):
    """Length and format of an audio file."""

    frames: int
    sample_rate: int
    channels: int

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate


def read_header(path: str) -> Header | Skipped:
    """The header of a file, or why the file cannot be used; the name in the latter is the path."""
    if not os.path.isfile(path):
        return Skipped(path, "missing", "there is no such file")
    try:
        info = soundfile.info(os.fsencode(path), verbose=path.lower().endswith(".wav"))
    except (soundfile.SoundFileError, OSError) as error:
        return Skipped(path, "unreadable", f"no audio that libsndfile reads: {said_by(error)}")
    if info.frames == 0:
        return Skipped(path, "empty", "it holds no audio")
    cut_off = _CUT_OFF.search(info.extra_info or "")
    if cut_off and int(cut_off[2]) < int(cut_off[1]) < _UNKNOWN_LENGTH:
        return Skipped(path, "truncated", f"its header announces {cut_off[1]} bytes of audio, the file has {cut_off[2]}")
    return Header(info.frames, info.samplerate, info.channels)


def read_headers(paths: list[str]) -> list[Header | Skipped]:
    """A job for a worker: the headers of some files."""
    headers = []
    for path in paths:
        headers.append(read_header(path))
        advance(1)
    return headers
