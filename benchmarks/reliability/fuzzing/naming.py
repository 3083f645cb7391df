"""Names by which a message may name a damaged file besides its path. Each function reads the good and the damaged file."""

import contextlib
import gzip
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from nemo_birq.utils.terminal import printable

LONGEST_NAME = 40
MISSING = object()
Names = Callable[[Path, Path], list[str]]


def path_only(good: Path, bad: Path) -> list[str]:
    """Accepts no other name."""
    return []


def stem(good: Path, bad: Path) -> list[str]:
    """Accepts the name of an utterance, that of its audio file without suffix."""
    return [good.stem]


def members(good: Path, bad: Path) -> list[str]:
    """Accepts the members of a shard, or those that a sharded manifest names."""
    if good.suffix == ".tar":
        with tarfile.open(good) as archive:
            return archive.getnames()
    return [json.loads(line)["audio_filepath"] for line in good.read_text().splitlines()]


def event_files(good: Path, bad: Path) -> list[str]:
    """Accepts the pattern of event files if the only one of a run is missing, because its name is unknown."""
    return [] if bad.exists() else ["events.out*"]


def cuts(good: Path, bad: Path) -> list[str]:
    """Accepts the cuts of a file of Lhotse."""
    return [json.loads(line)["id"] for line in gzip.decompress(good.read_bytes()).splitlines()]


def aligned(good: Path, bad: Path) -> list[str]:
    """Accepts the utterances of a CTM file, as they are in either file; the beginning of a long name is enough."""
    lines = [line for path in (good, bad) for line in path.read_text(errors="replace").splitlines()]
    return [printable(line.split()[0])[:LONGEST_NAME] for line in lines if line.strip()]


def utterances(good: Path, bad: Path) -> list[str]:
    """Accepts the utterances that either manifest names, because each identifies a line."""
    names = members(good, bad)
    for line in bad.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError, KeyError, TypeError):  # not such a line any more
            names.append(json.loads(line)["audio_filepath"])
    return [printable(Path(name).stem) for name in names if isinstance(name, str) and Path(name).stem]


def changed_keys(good: Path, bad: Path) -> list[str]:
    """Accepts the keys of a configuration with a changed value, because a user may also set them on the command line."""
    try:
        known, found = (dict(_flat(yaml.safe_load(path.read_text()))) for path in (good, bad))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return []
    keys = [key for key in known.keys() | found.keys() if repr(known.get(key, MISSING)) != repr(found.get(key, MISSING))]
    return [part for key in keys for part in (key, key.rpartition(".")[2]) if len(part) > 4]


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
