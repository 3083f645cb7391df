"""NeMo manifests: JSON lines that name audio files, or segments of them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from nemo_birq.data.json_lines import parse_raw_lines, raw_lines, show
from nemo_birq.data.manifests import find_path_problem, find_seconds_problem, open_manifest
from nemo_birq.data.shards.recipes.inputs import is_inside, without_suffix
from nemo_birq.data.shards.segments import IN_A_BATCH, Listed, Listing, Segment, Skipped
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
        return Listing(self._batches())

    def _batches(self) -> Iterator["Lines"]:
        for manifest in self.manifests:
            root = os.path.abspath(self.root or manifest.parent)
            with open_manifest(manifest) as file:
                lines = raw_lines(file)
                while some := list(islice(lines, IN_A_BATCH)):
                    yield Lines(manifest.name, root, some)


@dataclass(frozen=True)
class Lines:
    """Lines of a manifest, which a worker parses."""

    manifest: str
    """Name of the file."""
    root: str
    """Folder of relative paths."""
    lines: list[tuple[int, bytes]]
    """Numbers of the lines, and the lines."""

    def read(self) -> Listed:
        """Returns the segments; lines that are no JSON objects in UTF-8 are left out."""
        listed = Listed([], [])
        for number, entry, problem in parse_raw_lines(self.lines):
            found = _segment(entry, self.root) if problem is None else ("not text", f"it {problem}")
            if isinstance(found, Segment):
                listed.segments.append(found)
            else:
                listed.skipped.append(Skipped(f"{self.manifest}, line {number}", *found))
        return listed


def _segment(line: dict, root: str) -> Segment | tuple[str, str]:
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
    path = os.path.normpath(os.path.join(root, given))
    relative = path.removeprefix(f"{root}/") if path.startswith(f"{root}/") else os.path.relpath(path, root)
    if not os.path.isabs(given) and relative.startswith(".."):
        return (
            "outside",
            f"{given} leaves the folder of the manifest; if that is meant, give the folder with the audio as --root",
        )
    if not os.path.isabs(given) and not is_inside(path, root):
        return "outside", f"{given} leaves the folder of the manifest by a link; if that is meant, give its absolute path"
    if relative.startswith(".."):
        relative = _without_account(relative, path, root)
    times = ""
    if "offset" in line:
        end = "end" if duration is None else f"{round(1000 * (offset + duration)):08d}"
        times = f"-{round(1000 * offset):08d}-{end}"
    kept = {key: value for key, value in line.items() if key not in LOCATION}
    identity = f"{relative}{times}"
    return Segment(path, without_suffix(relative) + times, identity, float(offset), duration, line=kept)


def _without_account(relative: str, path: str, root: str) -> str:
    """Returns the relative path of a file outside of the root; the name of a member is not to hold that of an account."""
    home = f"{os.path.expanduser('~')}/"
    return f"~/{path.removeprefix(home)}" if path.startswith(home) and not f"{root}/".startswith(home) else relative
