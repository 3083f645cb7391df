"""Makes the plan of a build from the tables of its input."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nemo_birq.data.shards.arrangement import deal, find_repeated, total
from nemo_birq.data.shards.cut import CUTS
from nemo_birq.data.shards.listing import PIECES, SEGMENTS, ListedInput
from nemo_birq.data.shards.names import SortedNames, member_name, sort_names
from nemo_birq.data.shards.pieces import write_pieces
from nemo_birq.data.shards.plan import BuildOptions, Plan, byte_versions
from nemo_birq.data.shards.segments import BuildError, Skipped


class Usable(NamedTuple):
    """Segments that are not left out."""

    segments: np.ndarray
    """(segments,) bool."""
    pieces: np.ndarray
    """(pieces,) bool, true if the segment of the piece is usable."""
    skipped: list[Skipped]


def make_plan(source: dict, options: BuildOptions, listed: ListedInput, not_taken: dict, out: Path) -> Plan:
    """Makes the plan, and writes the pieces of each shard.

    Args:
        source: description of the input.
        options: options of the build.
        listed: tables of the input.
        not_taken: number of files of the input that are not audio, by suffix.
        out: output folder.

    Raises:
        BuildError: the input has no usable utterance, or there is less than one utterance for a shard.
    """
    usable = _find_usable(listed)
    skipped = [*listed.skipped, *usable.skipped]
    seconds = listed.column(PIECES, "seconds")
    kept = usable.pieces & (seconds >= options.min_duration)
    found = int(np.count_nonzero(usable.pieces))
    numbers = np.flatnonzero(kept)
    if not len(numbers):
        reasons = "; ".join(f"{entry.name}: {entry.reason}" for entry in skipped[:3])
        inputs = ", ".join(source["input"])
        raise BuildError(f"{inputs} has no usable utterance: {len(skipped)} are unusable, {found} too short. {reasons}")
    too_short = (total(seconds[usable.pieces]) - total(seconds[kept])) / 3600
    seconds = seconds[kept]
    named = _named(listed, kept, numbers, options.suffix)
    dealt = deal(named.order, seconds, options)
    write_pieces(out, listed, kept, named.names, dealt)
    return Plan(
        source=source,
        options=asdict(options),
        shards=dealt.shards,
        skipped=skipped,
        too_short={"utterances": found - len(numbers), "hours": too_short},
        cuts=_count_cuts(listed, usable.segments),
        bucket_limits=dealt.bucket_limits,
        not_taken=not_taken,
        versions=byte_versions(),
    )


def _find_usable(listed: ListedInput) -> Usable:
    repeated = find_repeated(listed)
    is_usable = np.ones(listed.num_segments, bool)
    is_usable[repeated.rows] = False
    reasons = list(zip(repeated.rows.tolist(), repeated.reasons, strict=True))
    for row, reason in listed.unusable:
        if is_usable[row]:
            reasons.append((row, reason))
            is_usable[row] = False
    pieces = np.repeat(is_usable, listed.column(SEGMENTS, "pieces"))
    return Usable(is_usable, pieces, [reason for _, reason in sorted(reasons, key=lambda pair: pair[0])])


def _named(listed: ListedInput, kept: np.ndarray, numbers: np.ndarray, suffix: str) -> SortedNames:
    def apart(rows: np.ndarray) -> list[str]:
        pieces = map(json.loads, listed.texts(PIECES, "piece", numbers[rows]))
        return [member_name(piece["name"], piece["identity"], suffix, apart=True) for piece in pieces]

    return sort_names(listed.names(kept), apart)


def _count_cuts(listed: ListedInput, is_usable: np.ndarray) -> dict[str, int]:
    counts = {name: int(listed.column(SEGMENTS, name)[is_usable].sum()) for name in sorted(CUTS)}
    return {name: count for name, count in counts.items() if count}
