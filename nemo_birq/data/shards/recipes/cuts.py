"""Lhotse cuts: a .jsonl or .jsonl.gz file."""

import zlib
from dataclasses import dataclass
from pathlib import Path

from nemo_birq.data.json_lines import parse_lines, show
from nemo_birq.data.manifests import find_path_problem, find_seconds_problem
from nemo_birq.data.shards.segments import BuildError, Listing, Segment, Skipped
from nemo_birq.data.shards.workers import Workers
from nemo_birq.utils.files import file_sha256
from nemo_birq.utils.progress import Progress


@dataclass(frozen=True)
class CutsRecipe:
    """Every cut becomes an utterance, with text, speaker and language of its supervisions."""

    path: Path

    def describe(self) -> dict:
        if not self.path.is_file():
            raise FileNotFoundError(f"the file of cuts {self.path} does not exist")
        return {"kind": "cuts", "input": [str(self.path.resolve())], "sha256": file_sha256(self.path)[:16]}

    def read(self, scratch: Path, workers: Workers, progress: Progress) -> Listing:
        from lhotse.serialization import open_best

        segments: list[Segment] = []
        skipped: list[Skipped] = []
        damaged = 0
        try:
            with open_best(self.path, "rb") as file:
                for number, entry, problem in parse_lines(file):
                    found = problem or _segment_of_line(entry)
                    if isinstance(found, Segment):
                        segments.append(found)
                    elif isinstance(found, Skipped):
                        skipped.append(found)
                    else:
                        damaged += 1
                        skipped.append(Skipped(f"{self.path.name}, line {number}", "not text", f"it {found}"))
        except (OSError, EOFError, zlib.error) as error:
            raise BuildError(f"{self.path} is not a file of Lhotse cuts, or is damaged: {error!r}") from error
        if damaged == len(segments) + len(skipped):
            reason = f"{skipped[0].name}: {skipped[0].reason}" if skipped else "it is empty"
            raise BuildError(f"{self.path} is not a file of Lhotse cuts, or is damaged: {reason}")
        return Listing.of(segments, skipped)


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
