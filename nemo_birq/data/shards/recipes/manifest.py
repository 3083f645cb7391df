"""NeMo manifests: JSON lines that name audio files, or segments of them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nemo_birq.data.json_lines import parse_lines, show
from nemo_birq.data.manifests import find_path_problem, find_seconds_problem, open_manifest
from nemo_birq.data.shards.recipes.inputs import is_inside, without_suffix
from nemo_birq.data.shards.segments import Listing, Segment, Skipped
from nemo_birq.utils.files import file_sha256
from nemo_birq.utils.progress import Progress

LOCATION = {"audio_filepath", "duration", "offset"}
LEAST_SECONDS = 1e-6


@dataclass(frozen=True)
class ManifestRecipe:
    """Every line becomes an utterance: the file, or ``duration`` seconds of it from ``offset``; other keys are kept."""

    manifests: list[Path]
    root: Path | None = None
    """What relative paths are relative to; None: each manifest's own folder."""

    def describe(self) -> dict:
        for manifest in self.manifests:
            if not manifest.is_file():
                raise FileNotFoundError(f"there is no manifest {manifest}")
        return {
            "kind": "manifest",
            "input": [str(manifest.resolve()) for manifest in self.manifests],
            "root": self.root and str(self.root.resolve()),
            "sha256": [file_sha256(manifest)[:16] for manifest in self.manifests],
        }

    def read(self, scratch: Path, workers: int, progress: Progress) -> Listing:
        segments: list[Segment] = []
        skipped: list[Skipped] = []
        for manifest in self.manifests:
            root = Path(os.path.abspath(self.root or manifest.parent))
            for where, line in read_lines(manifest, skipped):
                found = _segment(line, root)
                if isinstance(found, Segment):
                    segments.append(found)
                else:
                    skipped.append(Skipped(where, *found))
        return Listing(segments, skipped)


def read_lines(manifest: Path, skipped: list[Skipped]) -> Iterator[tuple[str, dict]]:
    """The lines of a manifest with the place of each; those that are no JSON objects in UTF-8 go to ``skipped``."""
    with open_manifest(manifest) as file:
        for number, entry, problem in parse_lines(file):
            where = f"{manifest.name}, line {number}"
            if problem is None:
                yield where, entry
            else:
                skipped.append(Skipped(where, "not text", f"it {problem}"))


def _segment(line: dict, root: Path) -> Segment | tuple[str, str]:
    """The segment that a line names, or kind and reason why there is none."""
    given, offset, duration = line.get("audio_filepath"), line.get("offset"), line.get("duration")
    if given is None:
        return "missing", f"no audio_filepath; the line has the keys {show(sorted(line))}"
    if problem := find_path_problem(given):
        return "missing", f"it {problem}"
    for key, value in (("offset", offset), ("duration", duration)):
        problem = None if value is None else find_seconds_problem(key, value)
        if problem:
            return "empty", f"{given} {problem}"
    offset = offset or 0.0
    if duration is not None and duration < LEAST_SECONDS:
        return "empty", f"{given} has duration={duration}"
    path = os.path.normpath(root / given)
    relative = os.path.relpath(path, root)
    if not os.path.isabs(given) and relative.startswith(".."):
        return (
            "outside",
            f"{given} leaves the folder of the manifest; if that is meant, give the folder with the audio as --root",
        )
    if not os.path.isabs(given) and not is_inside(path, str(root)):
        return "outside", f"{given} leaves the folder of the manifest by a link; if that is meant, give its absolute path"
    home = os.path.expanduser("~")
    if relative.startswith("..") and path.startswith(f"{home}/") and not f"{root}/".startswith(f"{home}/"):
        relative = f"~{path.removeprefix(home)}"  # the name of a member does not hold that of an account
    times = ""
    if "offset" in line:
        end = "end" if duration is None else f"{round(1000 * (offset + duration)):08d}"
        times = f"-{round(1000 * offset):08d}-{end}"
    kept = {key: value for key, value in line.items() if key not in LOCATION}
    identity = f"{relative}{times}"
    return Segment(path, without_suffix(relative) + times, identity, float(offset), duration, line=kept)
