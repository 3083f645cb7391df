"""Cuts segments that are too long into pieces."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from nemo_birq.data.manifests import TOLERANCE
from nemo_birq.data.shards.headers import Header
from nemo_birq.data.shards.segments import Segment, Skipped, Spoken

ROUNDING = 0.05  # seconds by which a manifest rounds the duration of a whole file

WHOLE, AT_UTTERANCES, EQUAL = CUTS = "not cut", "at utterance boundaries", "into equal pieces, without their text"


@dataclass(frozen=True)
class Piece:
    """The audio and the manifest line of one member of a shard."""

    path: str
    name: str
    identity: str
    start: int
    """First frame in the file."""
    frames: int
    """Number of frames."""
    seconds: float
    channels: tuple[int, ...] | None
    line: dict


def cut(segment: Segment, header: Header, max_duration: float, counts: Counter) -> list[Piece] | Skipped:
    """Returns the pieces of a segment, none longer than ``max_duration`` seconds, or the reason why there is none.

    A segment that is short enough stays whole. A longer one is cut at the boundaries of its utterances, and neighbours stay
    together as long as they fit. A segment without utterances, and an utterance that is too long itself, are cut into equal
    pieces. These lose the key ``text``, because it is unknown which words are in which piece. A piece that ends inside of
    another utterance loses it, too. No audio is in two pieces, and none is from outside of the segment.

    Args:
        segment: segment to cut.
        header: length and format of its file.
        max_duration: longest piece, in seconds.
        counts: receives the number of pieces by the way in which they were cut.
    """
    end = header.seconds if segment.duration is None else segment.start + segment.duration
    if end > header.seconds + TOLERANCE or segment.start >= header.seconds:
        reason = f"it has {header.seconds:.2f} s of audio, but the segment is from {segment.start:.2f} s to {end:.2f} s"
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
    for span in join_utterances(clipped(segment.spoken, segment.start, end, header.seconds), max_duration):
        first, last = round(span.start * header.sample_rate), min(round(span.end * header.sample_rate), header.frames)
        if last - first > longest:
            pieces += _equal_pieces(segment, header, first, last, longest, counts)
        elif last > first:
            counts[AT_UTTERANCES] += 1
            pieces.append(_piece(segment, header, first, last, _with_text(segment.line, span.text)))
    if not pieces:
        where = f"from {segment.start:.2f} s to {end:.2f} s"
        return Skipped(segment.identity, "empty", f"none of its {len(segment.spoken)} utterances lies in its audio, {where}")
    return pieces


def clipped(spoken: Iterable[Spoken], start: float, end: float, seconds: float) -> list[Spoken]:
    """Returns the parts of utterances between two times of a file with a length of ``seconds``.

    A part that lacks more than ``TOLERANCE`` of the audio of its utterance has no text.
    """
    parts = []
    for one in spoken:
        first, last = max(one.start, start), min(one.end, end)
        if last > first:
            lacking = first - max(one.start, 0.0) + min(one.end, seconds) - last
            parts.append(Spoken(first, last, one.text if lacking <= TOLERANCE else None))
    return parts


def join_utterances(spoken: Iterable[Spoken], max_duration: float) -> list[Spoken]:
    """Joins utterances that follow each other or overlap as long as they fit into ``max_duration`` seconds.

    If an utterance that does not fit begins before the last one ends, the last one ends there. Both lose their text if they
    overlap by more than ``TOLERANCE``, because it is unknown which words are on which side.
    """
    spans: list[Spoken] = []
    for start, end, text in sorted(spoken, key=lambda one: (one.start, one.end, one.text or "")):
        last = spans[-1] if spans else None
        if last and max(end, last.end) - last.start <= max_duration:
            spans[-1] = Spoken(last.start, max(end, last.end), _joined(last.text, text))
        elif last and start < last.end:
            torn = last.end - start > TOLERANCE
            spans[-1:] = [
                Spoken(last.start, start, None if torn else last.text),
                Spoken(start, max(end, last.end), None if torn else text),
            ]
        else:
            spans.append(Spoken(start, end, text))
    return [span for span in spans if span.end > span.start]


def _joined(first: str | None, second: str | None) -> str | None:
    return None if first is None or second is None else f"{first} {second}".strip()


def _with_text(line: dict, text: str | None) -> dict:
    return line | {"text": text} if text is not None else {key: value for key, value in line.items() if key != "text"}


def _equal_pieces(segment: Segment, header: Header, first: int, last: int, longest: int, counts: Counter) -> list[Piece]:
    number = -(-(last - first) // longest)
    bounds = [first + (last - first) * i // number for i in range(number + 1)]
    counts[EQUAL] += number
    line = _with_text(segment.line, None)
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
