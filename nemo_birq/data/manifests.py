"""NeMo manifests: one JSON object a line."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

# Manifest keys become attributes of a Lhotse cut; these are the cut's own and would overwrite what it is.
RESERVED_KEYS = {"id", "start", "channel", "supervisions", "features", "recording", "custom"}
SEGMENT = re.compile(r"-sub\d+(?=\.\w+$|$)")  # NeMo: lines of parts of one member are called member-sub1, member-sub2, ...
TOLERANCE = 0.2  # seconds by which a manifest and an audio file may disagree on a duration; NeMo's own


def is_remote(path: str) -> bool:
    """A pipe or a URL, which cannot be looked at beforehand."""
    return path.startswith("pipe:") or "://" in path


def iterate_manifest(path: str) -> Iterator[tuple[dict, None] | tuple[None, str]]:
    """Each line of a manifest: ``(entry, None)``, or ``(None, problem)`` where it is unusable. Blank ones are passed over.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"manifest {path}, line {number}"
            try:
                entry = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                yield None, f"{where} is not UTF-8 text ({error}); convert the file with iconv -t UTF-8"
                continue
            except json.JSONDecodeError as error:
                yield None, f"{where} is not JSON ({error}); a manifest holds one JSON object a line"
                continue
            problem = _find_problem(entry)
            yield (None, f"{where} {problem}") if problem else (entry, None)


def _find_problem(entry: object) -> str | None:
    if not isinstance(entry, dict):
        return f"is not a JSON object but {type(entry).__name__}"
    missing = [key for key in ("audio_filepath", "duration") if key not in entry]
    if missing:
        return f"lacks {missing}; it has the keys {sorted(entry)}"
    if not isinstance(entry["audio_filepath"], str):
        return f"has audio_filepath={entry['audio_filepath']!r}, which must be a path"
    reserved = RESERVED_KEYS & entry.keys()
    if reserved:
        return f"uses the reserved keys {sorted(reserved)}; rename them"
    for key in ("duration", "offset"):
        value = entry.get(key)
        if value is None and key == "offset":
            continue
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
            return f"has {key}={value!r}, which must be a number of seconds"
    if entry["duration"] == 0:
        return "has duration=0, which must be above 0"
    return None


def read_manifest(path: str) -> list[dict]:
    """All lines of a manifest.

    Raises:
        ValueError: naming file, line and remedy.
        FileNotFoundError: there is no such file.
    """
    entries = []
    for entry, problem in iterate_manifest(path):
        if problem:
            raise ValueError(problem)
        entries.append(entry)
    if not entries:
        raise ValueError(f"manifest {path} is empty")
    return entries


def check_manifest_of_files(manifest: str) -> list[dict]:
    """Lines of a manifest that names single files, relative to its own folder or absolute.

    Raises:
        ValueError: a line that cannot be used.
        FileNotFoundError: a file that is not there.
    """
    entries = read_manifest(manifest)
    for entry in entries:
        path = Path(manifest).parent / entry["audio_filepath"]
        if not path.is_file():
            raise FileNotFoundError(f"manifest {manifest} names {path}, which does not exist")
    return entries
