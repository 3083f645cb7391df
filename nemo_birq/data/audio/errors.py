"""Reasons why audio cannot be used, and repairs that make it usable."""

from typing import NamedTuple


class AudioError(Exception):
    """Audio that cannot be used.

    Args:
        kind: missing, unreadable, empty, truncated, not a number or too loud.
        reason: message without the name of the file.
    """

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


class Remedy(NamedTuple):
    """A repair by the reader, for example of a wrong length in a header."""

    kind: str
    reason: str


LENGTH = "length from the data"
JOINED = "joined streams"
IN_PART = "read in part"
CANCELLING = "channels cancel"
INTEGERS = "integers in floats"


def said_by(error: Exception) -> str:
    """Returns the message of libsndfile or of the system without the path, which differs between machines."""
    return getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
