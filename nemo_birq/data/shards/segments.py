"""Types that the recipes pass to the planner."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from types import MappingProxyType
from typing import NamedTuple, Protocol

IN_A_BATCH = 2000  # segments; a batch takes seconds, so that even a small corpus has work for many workers


class BuildError(ValueError):
    """A build cannot continue; the message names the remedy."""


class Skipped(NamedTuple):
    """An utterance that is left out."""

    name: str
    """Name of the utterance, or of the file relative to the input folder."""
    kind: str
    """missing, unreadable, empty, truncated, not a number, too loud, not text, duplicate, outside, unsupported."""
    reason: str


class Spoken(NamedTuple):
    """An utterance inside a longer recording."""

    start: float
    """Seconds from the beginning of the file."""
    end: float
    text: str | None
    """None if it is unknown which words are in this part."""


@dataclass(frozen=True)
class Segment:
    """A part of an audio file that goes into the shards."""

    path: str
    """The audio file."""
    name: str
    """Source of the member's name: the path relative to the input folder without suffix, or the name of the utterance."""
    identity: str
    """Two segments with the same identity are the same utterance. It does not depend on the path of the input folder."""
    start: float = 0.0
    """Seconds."""
    duration: float | None = None
    """Seconds; None: to the end."""
    channels: tuple[int, ...] | None = None
    """Channels that are mixed to mono; None: all."""
    line: dict = field(default_factory=dict)
    """Keys of the manifest line besides audio_filepath and duration."""
    spoken: tuple[Spoken, ...] = ()
    """Utterances at whose boundaries a long recording may be cut."""


class Listed(NamedTuple):
    """Segments that a recipe has read, and the entries that it leaves out."""

    segments: Sequence[Segment]
    skipped: Sequence[Skipped]

    def read(self) -> "Listed":
        """Returns itself, because this batch needs no more work."""
        return self


class Batch(Protocol):
    """Some segments, or the data from which a worker makes them."""

    def read(self) -> Listed:
        """Returns the segments."""


class Listing(NamedTuple):
    """The input that a recipe found."""

    batches: Iterable[Batch]
    """Batches of segments, which may be read lazily."""
    not_taken: Mapping[str, int] = MappingProxyType({})
    """Number of files of the input that are not audio of a known format, by suffix; complete after the last batch."""

    @classmethod
    def of(
        cls, segments: Iterable[Segment], skipped: list[Skipped], not_taken: Mapping[str, int] = MappingProxyType({})
    ) -> "Listing":
        """Returns a listing of segments, which are taken when their batches are asked for."""
        return cls(chain([Listed([], skipped)], _in_batches(segments)), not_taken)


def _in_batches(segments: Iterable[Segment]) -> Iterator[Listed]:
    rest = iter(segments)
    while some := list(islice(rest, IN_A_BATCH)):
        yield Listed(some, [])
