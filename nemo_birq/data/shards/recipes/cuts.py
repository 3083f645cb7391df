"""Lhotse cuts: a .jsonl or .jsonl.gz file."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from nemo_birq.data.json_lines import parse_raw_lines, raw_lines, show
from nemo_birq.data.manifests import find_path_problem, find_seconds_problem
from nemo_birq.data.shards.segments import IN_A_BATCH, BuildError, Listed, Listing, Segment, Skipped
from nemo_birq.data.shards.workers import Workers
from nemo_birq.utils.files import file_sha256
from nemo_birq.utils.progress import Progress

_NO_CUTS = "is not a file of Lhotse cuts, or is damaged"
_DAMAGED = "not text"
_LINES_CHECKED = 20


@dataclass(frozen=True)
class CutsRecipe:
    """Every cut becomes an utterance, with text, speaker and language of its supervisions."""

    path: Path

    def describe(self) -> dict:
        if not self.path.is_file():
            raise FileNotFoundError(f"the file of cuts {self.path} does not exist")
        return {"kind": "cuts", "input": [str(self.path.resolve())], "sha256": file_sha256(self.path)[:16]}

    def read(self, scratch: Path, workers: Workers, progress: Progress) -> Listing:
        return Listing(self._batches())

    def _batches(self) -> Iterator["CutLines"]:
        from lhotse.serialization import open_best

        is_checked = False
        try:
            with open_best(self.path, "rb") as file:
                lines = raw_lines(file)
                while some := list(islice(lines, IN_A_BATCH)):
                    batch = CutLines(self.path.name, some)
                    if not is_checked:
                        self._check(batch)
                        is_checked = True
                    yield batch
        except (OSError, EOFError, zlib.error) as error:
            raise BuildError(f"{self.path} {_NO_CUTS}: {error!r}") from error
        if not is_checked:
            raise BuildError(f"{self.path} {_NO_CUTS}: it is empty")

    def _check(self, first: "CutLines") -> None:
        """Raises a BuildError if none of the first lines is a cut."""
        for some in (first.lines[:_LINES_CHECKED], first.lines):
            listed = CutLines(first.file, some).read()
            if listed.segments or any(entry.kind != _DAMAGED for entry in listed.skipped):
                return
        raise BuildError(f"{self.path} {_NO_CUTS}: {listed.skipped[0].name}: {listed.skipped[0].reason}")


@dataclass(frozen=True)
class CutLines:
    """Lines of a file of cuts, which a worker parses."""

    file: str
    """Name of the file."""
    lines: list[tuple[int, bytes]]
    """Numbers of the lines, and the lines."""

    def read(self) -> Listed:
        """Returns the segments, and the cuts and lines that are left out."""
        listed = Listed([], [])
        for number, entry, problem in parse_raw_lines(self.lines):
            found = problem or _segment_of_line(entry)
            if isinstance(found, Segment):
                listed.segments.append(found)
            else:
                is_cut = isinstance(found, Skipped)
                listed.skipped.append(found if is_cut else Skipped(f"{self.file}, line {number}", _DAMAGED, f"it {found}"))
        return listed


def _segment_of_line(entry: dict) -> Segment | Skipped | str:
    """Returns the segment of a cut, the reason why it is left out, or the reason why the line is not a cut."""
    from lhotse.serialization import deserialize_item

    from nemo_birq.data.shards.recipes.supervisions import segment_of_cut

    try:
        found = segment_of_cut(deserialize_item(entry))
        problem = _find_problem(found) if isinstance(found, Segment) else None
    except Exception as error:  # Lhotse does not check values, so a wrong one may raise any error
        return f"is not a cut that Lhotse reads ({show(error)})"
    return problem or found


def _find_problem(segment: Segment) -> str | None:
    if not isinstance(segment.identity, str) or not segment.identity:
        return f"has id={show(segment.identity)}, which must be a name"
    times = [("start", segment.start), ("duration", segment.duration)]
    times += [
        (f"{key} of a supervision", max(value, 0.0))  # rounding, or a cut of a cut, may begin before the recording
        for part in segment.spoken
        for key, value in zip(part._fields, part[:2], strict=False)
    ]
    return find_path_problem(segment.path) or next(filter(None, (find_seconds_problem(*time) for time in times)), None)
