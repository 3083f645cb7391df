"""How long audio files are, from their headers."""

import os

from nemo_birq.data.audio.errors import AudioError
from nemo_birq.data.audio.file import measure
from nemo_birq.data.audio.stream import Header
from nemo_birq.data.shards.segments import Skipped


def read_header(path: str) -> Header | Skipped:
    """The header of a file, or why the file cannot be used; the name in the latter is the path."""
    if not os.path.isfile(path):
        return Skipped(path, "missing", "there is no such file")
    try:
        return measure(path)
    except AudioError as error:
        return Skipped(path, error.kind, str(error))
