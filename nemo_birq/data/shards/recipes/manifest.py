"""NeMo manifests: JSON lines that name audio files, or segments of them."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from nemo_birq.data.json_lines import parse_raw_lines, raw_lines, show
from nemo_birq.data.manifests import find_path_problem, find_seconds_problem, open_manifest
from nemo_birq.data.remote import open_file
from nemo_birq.data.shards.recipes.inputs import is_inside, without_suffix
from nemo_birq.data.shards.segments import IN_A_BATCH, Listed, Listing, Segment, Skipped
from nemo_birq.data.shards.workers import Workers
from nemo_birq.utils.progress import Progress
from nemo_birq.utils.urls import absolute, find_secret_problem, folder_of, is_url, join

LOCATION = {"audio_filepath", "duration", "offset"}
LEAST_SECONDS = 1e-6


@dataclass(frozen=True)
class ManifestRecipe:
    """Every line becomes an utterance: the file, or ``duration`` seconds of it from ``offset``; other keys are kept."""

    manifests: list[Path | str]
    """Paths and URLs."""
    root: Path | str | None = None
    """Folder of relative paths; None: the folder of each manifest."""

    def describe(self) -> dict:
        for path in (*self.manifests, self.root or ""):
            if problem := find_secret_problem(str(path)):
                raise ValueError(problem)
        for manifest in self.manifests:
            if not is_url(manifest) and not Path(manifest).is_file():
                raise FileNotFoundError(f"manifest {manifest} does not exist")
        return {
            "kind": "manifest",
            "input": [_resolved(manifest) for manifest in self.manifests],
            "root": self.root and _resolved(self.root),
            "sha256": [_sha256(manifest)[:16] for manifest in self.manifests],
        }

    def read(self, scratch: Path, workers: Workers, progress: Progress) -> Listing:
        return Listing(self._batches())

    def _batches(self) -> Iterator["Lines"]:
        for manifest in map(str, self.manifests):
            root = absolute(str(self.root or folder_of(manifest)))
            with open_manifest(manifest) as file:
                lines = raw_lines(file)
                while some := list(islice(lines, IN_A_BATCH)):
                    yield Lines(manifest.rpartition("/")[2], root, some)


def _resolved(path: Path | str) -> str:
    return str(path) if is_url(path) else str(Path(path).resolve())


def _sha256(manifest: Path | str) -> str:
    digest = hashlib.sha256()
    with open_file(str(manifest)) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Lines:
    """Lines of a manifest, which a worker parses."""

    manifest: str
    """Name of the file."""
    root: str
    """Folder of relative paths, or its URL."""
    lines: list[tuple[int, bytes]]
    """Numbers of the lines, and the lines."""

    def read(self) -> Listed:
        """Returns the segments; lines that are not JSON objects in UTF-8 are left out."""
        listed = Listed([], [])
        for number, entry, problem in parse_raw_lines(self.lines):
            found = _segment(entry, self.root) if problem is None else ("not text", f"it {problem}")
            if isinstance(found, Segment):
                listed.segments.append(found)
            else:
                listed.skipped.append(Skipped(f"{self.manifest}, line {number}", *found))
        return listed


def _segment(line: dict, root: str) -> Segment | tuple[str, str]:
    """Returns the segment that a line names, or kind and reason why there is none."""
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
    location = _remote_location(given, root) if is_url(root) or is_url(given) else _location(given, root)
    if location.problem:
        return "outside", location.problem
    times = ""
    if "offset" in line:
        end = "end" if duration is None else f"{round(1000 * (offset + duration)):08d}"
        times = f"-{round(1000 * offset):08d}-{end}"
    kept = {key: value for key, value in line.items() if key not in LOCATION}
    name = location.relative
    return Segment(location.path, without_suffix(name) + times, f"{name}{times}", float(offset), duration, line=kept)


class _Location(NamedTuple):
    """The location of the audio of a line."""

    path: str
    """Path or URL."""
    relative: str = ""
    """Path relative to the folder of the manifest, if possible."""
    problem: str | None = None
    """The reason why it is not used."""


def _remote_location(given: str, root: str) -> _Location:
    """Returns the location of a line if its path, or the folder of its manifest, is a URL."""
    path, top = join(root, given), f"{root.rstrip('/')}/"
    if not is_url(path):
        return _Location(path, problem=f"{given} is a local path in a manifest of URLs: write its URL instead")
    if not is_url(given) and ".." in given.split("/"):
        return _Location(path, problem=f"{given} leaves the folder of the manifest; if this is intended, write its URL")
    return _Location(path, path.removeprefix(top) if path.startswith(top) else path.partition("://")[2])


def _location(given: str, root: str) -> _Location:
    path = os.path.normpath(os.path.join(root, given))
    relative = path.removeprefix(f"{root}/") if path.startswith(f"{root}/") else os.path.relpath(path, root)
    if not os.path.isabs(given) and relative.startswith(".."):
        remedy = "if this is intended, name the folder with the audio as --root"
        return _Location(path, problem=f"{given} leaves the folder of the manifest; {remedy}")
    if not os.path.isabs(given) and not is_inside(path, root):
        remedy = "if this is intended, write its absolute path"
        return _Location(path, problem=f"{given} leaves the folder of the manifest by a link; {remedy}")
    return _Location(path, _without_account(relative, path, root) if relative.startswith("..") else relative)


def _without_account(relative: str, path: str, root: str) -> str:
    """Returns the relative path of a file outside of the root, without the name of a user in it."""
    home = f"{os.path.expanduser('~')}/"
    return f"~/{path.removeprefix(home)}" if path.startswith(home) and not f"{root}/".startswith(home) else relative
