"""What the recipes give to the planner."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from types import MappingProxyType
from typing import NamedTuple, Protocol

IN_A_BATCH = 2000  # segments: seconds of work, so that many workers have some even of a small corpus


class BuildError(ValueError):
    """A build that cannot go on, with what to do about it."""


class Skipped(NamedTuple):
    """An utterance that is left out."""

    name: str
    """Of the file, relative to the input folder, or of the utterance."""
    kind: str
    """missing, unreadable, empty, truncated, not a number, too loud, not text, duplicate, outside, unsupported."""
    reason: str


class Spoken(NamedTuple):
    """An utterance inside a longer recording."""

    start: float
    """Seconds from the beginning of the file."""
    end: float
    text: str | None
    """None: nobody knows which words are in this part."""


@dataclass(frozen=True)
class Segment:
    """A part of an audio file that the recipe wants in the shards."""

    path: str
    """The audio file."""
    name: str
    """What the member is called after: the path relative to the input folder without suffix, or the utterance's own name."""
    identity: str
    """Two segments with the same identity are the same utterance; does not depend on where the input folder lies."""
    start: float = 0.0
    """Seconds."""
    duration: float | None = None
    """Seconds; None: to the end."""
    channels: tuple[int, ...] | None = None
    """To be mixed to mono; None: all."""
    line: dict = field(default_factory=dict)
    """Keys of the manifest line beside audio_filepath and duration."""
    spoken: tuple[Spoken, ...] = ()
    """Where a long recording may be cut."""


class Listed(NamedTuple):
    """Segments that a recipe has read, and what it leaves out."""

    segments: Sequence[Segment]
    skipped: Sequence[Skipped]

    def read(self) -> "Listed":
        """Returns itself: it is a batch that needs no more work."""
        return self


class Batch(Protocol):
    """Some segments, or what a worker makes them of."""

    def read(self) -> Listed:
        """Returns the segments."""


class Listing(NamedTuple):
    """What a recipe found."""

    batches: Iterable[Batch]
    """They may be read when they are asked for."""
    not_taken: Mapping[str, int] = MappingProxyType({})
    """Number of files of the input that are no audio of a known format, by suffix; complete after the last batch."""

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
