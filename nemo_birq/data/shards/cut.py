"""Segments that are longer than wanted become pieces."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from nemo_birq.data.manifests import TOLERANCE
from nemo_birq.data.shards.headers import Header
from nemo_birq.data.shards.segments import Segment, Skipped, Spoken

ROUNDING = 0.05  # seconds by which a manifest rounds the duration of a whole file

WHOLE, AT_UTTERANCES, EQUAL = "not cut", "at utterance boundaries", "into equal pieces, without their text"


@dataclass(frozen=True)
class Piece:
    """What becomes one member of a shard."""

    path: str
    name: str
    identity: str
    start: int
    """In frames of the file, as is the length."""
    frames: int
    seconds: float
    channels: tuple[int, ...] | None
    line: dict


class Span(NamedTuple):
    start: float
    end: float
    text: str | None


def cut(segment: Segment, header: Header, max_duration: float, counts: Counter) -> list[Piece] | Skipped:
    """The pieces of a segment, none longer than ``max_duration`` seconds; counts how they were cut.

    A segment that is short enough stays whole. A longer one is cut at the boundaries of its utterances: neighbours stay
    together while they fit. Where there are none, and inside an utterance that is too long itself, it is cut into equal
    pieces; these lose the key ``text``, since nobody knows which words are in which piece.
    """
    end = header.seconds if segment.duration is None else segment.start + segment.duration
    if end > header.seconds + TOLERANCE or segment.start >= header.seconds:
        reason = f"it holds {header.seconds:.2f} s, but {segment.start:.2f} s to {end:.2f} s of it are wanted"
        return Skipped(segment.identity, "truncated", reason)
    if segment.start == 0 and abs(end - header.seconds) <= ROUNDING:
        end = header.seconds
    end = min(end, header.seconds)
    if segment.channels is not None and max(segment.channels) >= header.channels:
        return Skipped(segment.identity, "missing", f"channel {max(segment.channels)} of a file with {header.channels}")

    first, last = round(segment.start * header.sample_rate), round(end * header.sample_rate)
    longest = int(max_duration * header.sample_rate)
    if last - first <= longest:
        counts[WHOLE] += 1
        return [_piece(segment, header, first, last, segment.line, part=False)]
    if not segment.spoken:
        return _equal_pieces(segment, header, first, last, longest, counts)
    pieces = []
    for span in join_utterances(segment.spoken, max_duration):
        first, last = round(span.start * header.sample_rate), min(round(span.end * header.sample_rate), header.frames)
        if last - first > longest:
            pieces += _equal_pieces(segment, header, first, last, longest, counts)
        elif last > first:
            counts[AT_UTTERANCES] += 1
            pieces.append(_piece(segment, header, first, last, segment.line | {"text": span.text}))
    return pieces


def join_utterances(spoken: tuple[Spoken, ...], max_duration: float) -> list[Span]:
    """Joins utterances that follow each other while they fit into ``max_duration`` seconds; overlapping ones, too."""
    spans: list[Span] = []
    for start, end, text in sorted(spoken):
        if spans and max(end, spans[-1].end) - spans[-1].start <= max_duration:
            spans[-1] = Span(spans[-1].start, max(end, spans[-1].end), f"{spans[-1].text} {text}".strip())
        else:
            spans.append(Span(start, end, text))
    return spans


def _equal_pieces(segment: Segment, header: Header, first: int, last: int, longest: int, counts: Counter) -> list[Piece]:
    number = -(-(last - first) // longest)
    bounds = [first + (last - first) * i // number for i in range(number + 1)]
    counts[EQUAL] += number
    line = {key: value for key, value in segment.line.items() if key != "text"}
    return [_piece(segment, header, *bound, line) for bound in pairwise(bounds)]


def _piece(segment: Segment, header: Header, first: int, last: int, line: dict, part: bool = True) -> Piece:
    times = f"-{1000 * first // header.sample_rate:08d}-{1000 * last // header.sample_rate:08d}" if part else ""
    return Piece(
        path=segment.path,
        name=segment.name + times,
        identity=segment.identity + times,
        start=first,
        frames=last - first,
        seconds=(last - first) / header.sample_rate,
        channels=segment.channels,
        line=line,
    )
