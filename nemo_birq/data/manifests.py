"""Reads NeMo manifests, which have one JSON object per line. Every reader of the package uses this module.

A line that cannot be used loses one utterance only. It is reported as a problem with file and line.
"""

import gzip
import io
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

from nemo_birq.data.json_lines import parse_lines, show
from nemo_birq.data.remote import open_file
from nemo_birq.utils.urls import find_secret_problem

# Attributes of a Lhotse cut. Lines may have them as keys; the shards that are made here have source_id, ... instead.
RESERVED_KEYS = {"id", "start", "channel", "supervisions", "features", "recording", "custom"}
COMMAND = "pipe:"
"""Prefix of a path that is a command, whose output is read."""
SEGMENT = re.compile(r"-sub\d+(?=\.\w+$|$)")  # NeMo names the lines of parts of one member member-sub1, member-sub2, ...
GZIP_MAGIC = b"\x1f\x8b"
SKIP, STATUS = "_skipme", "validation_status"
"""Keys with which NeMo's tools mark lines that its loader leaves out: ``_skipme: true``, or a status other than "pass"."""
TOLERANCE = 0.2  # seconds by which a manifest and an audio file may disagree on a duration, as in NeMo
MAX_SECONDS = 1e6
"""Eleven days. No audio is that long, and one such number would distort every sum of hours."""
MAX_PATH_BYTES = 4096  # limit of Linux, beyond which opening a file fails in another way than for a missing file


class ManifestLine(NamedTuple):
    """A line of a manifest."""

    where: str
    """File and number of the line."""
    entry: dict[str, Any]
    """Empty if there is a problem."""
    problem: str | None
    """Place and reason of a line that cannot be used."""


def is_remote(path: str) -> bool:
    """Tests if a path is a command or a URL, which cannot be checked like a local file."""
    return path.startswith(COMMAND) or "://" in path


@contextmanager
def open_manifest(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a file of lines, which may be compressed with gzip under any name.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the path is a command or a URL with a secret, or, while it is read, a compressed file is damaged.
        RemoteError: the URL cannot be read.
    """
    if str(path).startswith(COMMAND):
        raise ValueError(f"manifest {path} is a command: write its output to a file, and name the file")
    if (problem := find_secret_problem(str(path))) is not None:
        raise ValueError(problem)
    with open_file(str(path)) as file:
        if file.peek(2)[:2] != GZIP_MAGIC:
            yield file
            return
        try:
            yield io.BufferedReader(gzip.GzipFile(fileobj=file))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"manifest {path} is damaged: {error}. Copy it again, or unpack it with gunzip") from error


def iterate_manifest(path: str, left_out: list[dict[str, Any]] | None = None) -> Iterator[ManifestLine]:
    """Yields the lines of a manifest, except blank ones and those that are marked to be left out.

    Args:
        path: path of the manifest, which may be compressed with gzip.
        left_out: list to which the entries that are marked with ``_skipme`` or ``validation_status`` are added.

    Raises:
        FileNotFoundError, ValueError: as ``open_manifest``.
    """
    with open_manifest(path) as file:
        for number, entry, problem in parse_lines(file):
            if is_marked(entry):  # before other checks, which do not matter then
                if left_out is not None:
                    left_out.append(entry)
                continue
            where = f"manifest {path}, line {number}"
            problem = problem or find_problem_of_entry(entry)
            yield ManifestLine(where, {}, f"{where} {problem}") if problem else ManifestLine(where, entry, None)


def is_marked(entry: dict[str, Any]) -> bool:
    """Tests if a line is marked to be left out: ``_skipme: true``, or a ``validation_status`` other than "pass"."""
    return bool(entry.get(SKIP)) or entry.get(STATUS, "pass") != "pass"


def find_problem_of_entry(entry: dict[str, Any]) -> str | None:
    """Returns the reason why an entry cannot be used, worded to follow the place of its line; None if it can be used."""
    missing = [key for key in ("audio_filepath", "duration") if key not in entry]
    if missing:
        return f"lacks {missing}; it has the keys {show(sorted(entry))}"
    problem = find_path_problem(entry["audio_filepath"])
    if problem is None and not _is_utf8(entry["audio_filepath"]):
        problem = f"has audio_filepath={show(entry['audio_filepath'])}, which is not UTF-8: rename the file"
    if problem is None:
        problem = find_seconds_problem("duration", entry["duration"])
    if problem is None and entry["duration"] == 0:
        problem = "has duration=0, which must be above 0"
    if problem is None and entry.get("offset") is not None:
        problem = find_seconds_problem("offset", entry["offset"])
    return problem


def find_path_problem(value: object) -> str | None:
    """Returns the reason why a value of ``audio_filepath`` is not a path; None if it is one."""
    if not isinstance(value, str) or not value:
        return f"has audio_filepath={show(value)}, which must be a path"
    if (problem := find_secret_problem(value)) is not None:
        return f"names audio that cannot be used: {problem}"
    if len(value.encode(errors="surrogateescape")) > MAX_PATH_BYTES or "\0" in value:
        return f"has audio_filepath={show(value)}, which cannot be a path: it is too long or has a null byte"
    return None


def find_seconds_problem(key: str, value: object) -> str | None:
    """Returns the reason why a value is not a number of seconds from 0 to ``MAX_SECONDS``; None if it is one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        return f"has {key}={show(value)}, which must be a number of seconds"
    if value > MAX_SECONDS:
        return f"has {key}={show(value)} seconds, more than {int(MAX_SECONDS / 86400)} days; check its unit"
    return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def has_text(entry: dict[str, Any]) -> bool:
    """Tests if a line has a transcript, which may be empty."""
    return isinstance(entry.get("text"), str)


def read_lines(path: str) -> list[ManifestLine]:
    """Reads all lines of a manifest, for commands that must use every line.

    Raises:
        ValueError: a line cannot be used (the message names file, line and remedy), or there is no line.
        FileNotFoundError: the file does not exist.
    """
    lines = []
    for line in iterate_manifest(path):
        if line.problem:
            raise ValueError(line.problem)
        lines.append(line)
    if not lines:
        raise ValueError(f"manifest {path} is empty")
    return lines


def read_manifest(path: str) -> list[dict[str, Any]]:
    """Reads the entries of all lines of a manifest; errors as ``read_lines``."""
    return [line.entry for line in read_lines(path)]


def check_files(manifest: str, lines: list[ManifestLine]) -> None:
    """Checks that the audio files of a manifest exist. Paths are absolute or relative to the folder of the manifest.

    Raises:
        FileNotFoundError: a file does not exist.
    """
    for line in lines:
        path = os.path.join(os.path.dirname(manifest), line.entry["audio_filepath"])
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{line.where} names {path}, which does not exist")


def check_manifest_of_files(manifest: str) -> list[dict[str, Any]]:
    """Reads the entries of a manifest that names single files.

    Raises:
        ValueError, FileNotFoundError: as ``read_lines`` and ``check_files``.
    """
    lines = read_lines(manifest)
    check_files(manifest, lines)
    return [line.entry for line in lines]
