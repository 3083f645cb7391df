"""How long audio files are, from their headers."""

import os

from nemo_birq.data.audio.errors import AudioError
from nemo_birq.data.audio.file import measure
from nemo_birq.data.audio.stream import Header
from nemo_birq.data.shards.recordings import NO_FILE, local_recordings
from nemo_birq.data.shards.segments import Skipped
from nemo_birq.data.shards.workers import advance


def read_header(path: str) -> Header | Skipped:
    """The header of a file, or why the file cannot be used; the name in the latter is the path."""
    if not os.path.isfile(path):
        return Skipped(path, "missing", NO_FILE)
    try:
        return measure(path)
    except AudioError as error:
        return Skipped(path, error.kind, str(error))


def read_headers(paths: list[str]) -> list[Header | Skipped]:
    """A job for a worker: the headers of some files."""
    headers = []
    for path, recording in zip(paths, local_recordings(paths), strict=True):
        if isinstance(recording, AudioError):
            headers.append(Skipped(path, recording.kind, str(recording)))
        else:
            headers.append(read_header(recording))
        advance(1)
    return headers
