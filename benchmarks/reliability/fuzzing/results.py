"""The results of a command as a flat table, without times and names of folders."""

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.reliability.fuzzing.archive_corruptions import UNIQUE
from benchmarks.reliability.outcome import read_outcome

Result = dict[str, Any]
CHECKSUMS = "birq_checksums.json"
MEASURED = re.compile("seconds_taken|wall_seconds|processor_seconds|command|versions|made_from|peak_memory")
"""Keys of results that differ between two runs, or name what was read."""


def flat(value: Any, name: str) -> Result:
    """Returns the leaves of nested values by their position."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None:
        return {name: value}
    found: Result = {}
    for key, inner in items:
        if not MEASURED.search(str(key)):
            found |= flat(inner, f"{name}.{key}")
    return found or {name: "empty"}


def json_files(pattern: str) -> "Reader":
    """Returns a reader of JSON files, or of files with one object a line."""

    def read(folder: Path) -> Result:
        found: Result = {}
        for path in sorted(folder.glob(pattern)):
            text = path.read_text(encoding="utf-8-sig")
            try:
                value = json.loads(text)
            except json.JSONDecodeError:
                value = [json.loads(line) for line in text.splitlines()]
            found |= flat(value, str(path.relative_to(folder)))
        return found

    return read


def text_files(pattern: str) -> "Reader":
    """Returns a reader of files that are compared as text."""

    def read(folder: Path) -> Result:
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(pattern)) if path.is_file()}

    return read


def features(folder: Path) -> Result:
    """Reads the arrays that ``birq extract-features`` wrote, by utterance, found through its manifest."""
    found: Result = {}
    for line in map(json.loads, (folder / "out" / "manifest.json").read_text().splitlines()):
        with np.load(folder / "out" / line["features_filepath"]) as arrays:
            names = [name for name in arrays if name.startswith(f"{line['features_key']}/")]
            found |= {name: torch.from_numpy(arrays[name]) for name in names}
        found |= flat(line, line["features_key"])
    return found


def shards(folder: Path) -> Result:
    """Reads the samples of every member that ``birq make-shards`` wrote, and the lines of the manifest."""
    found = json_files("out/tarred_audio_manifest.json")(folder)
    for path in sorted(folder.glob("out/audio_*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                samples, _ = soundfile.read(io.BytesIO(tar.extractfile(member).read()), dtype="int16")
                found[f"{path.name}:{member.name}"] = torch.from_numpy(samples)
    return found


def experiment(name: str) -> "Reader":
    """Returns a reader of the files of a training in ``runs/<name>``."""

    def read(folder: Path) -> Result:
        found = read_outcome(folder / "runs" / name)
        return {key: value for key, value in found.items() if CHECKSUMS not in key}  # of a configuration with random names

    return read


def nemo_files(pattern: str) -> "Reader":
    """Returns a reader of the weights and label tensors of ``.nemo`` files, and of other files of ``torch.save``."""

    def read(folder: Path) -> Result:
        found: Result = {}
        for path in sorted(folder.glob(pattern)):
            if path.suffix == ".pt":
                found |= flat(torch.load(path, weights_only=True), path.name)
                continue
            with tarfile.open(path) as archive:
                for member in archive.getmembers():
                    content = archive.extractfile(member)
                    if member.name.endswith((".ckpt", ".pt")):
                        found |= flat(torch.load(content, weights_only=True), member.name)
                    elif content is not None and not member.name.endswith((".md", CHECKSUMS)):
                        # Names of artifacts are other ones each time, and the configuration has them too.
                        found[UNIQUE.sub("", member.name)] = UNIQUE.sub("", content.read().decode(errors="replace"))
        return found

    return read


def nothing(folder: Path) -> Result:
    """Reads nothing, because the command only prints."""
    return {}


Reader = type(nothing)
