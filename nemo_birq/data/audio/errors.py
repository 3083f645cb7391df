"""The ways in which audio is unusable, and those in which it is usable once it is mended."""

from typing import NamedTuple


class AudioError(Exception):
    """Audio that cannot be used.

    Args:
        kind: missing, unreadable, empty, truncated, not a number or too loud.
        reason: in words, without the name of the file.
    """

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


class Remedy(NamedTuple):
    """A step by which the reader mends audio that says something wrong about itself."""

    kind: str
    reason: str


LENGTH = "length from the data"
JOINED = "joined streams"
IN_PART = "read in part"
CANCELLING = "channels cancel"
INTEGERS = "integers in floats"


def said_by(error: Exception) -> str:
    """The message of libsndfile or of the system without the path, which differs from machine to machine."""
    return getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
