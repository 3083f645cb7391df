"""Atomic writing of files, which stay complete or absent even if the process is killed, and checksums of files."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from nemo_birq.utils.text_files import read_text

DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
"""Errors of a disk that takes no more: it is full, or a limit of the user's is reached."""
PART = ".part"
"""Suffix of the name under which a file is written until it is complete."""


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside ``path``, and moves the file to ``path`` when the block ends without an error.

    The content reaches the disk before the name does. An error removes the temporary file and leaves an older ``path`` as it
    is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    try:
        yield part
        flush(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def complete_files(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder, and moves its files to ``folder`` when the block ends without an error.

    The files are moved in the order of their names. A process that is killed leaves a folder whose name ends with ``PART``.
    """
    with tempfile.TemporaryDirectory(dir=folder, suffix=PART) as new:
        yield Path(new)
        for path in sorted(Path(new).iterdir()):
            flush(path)
            os.replace(path, folder / path.name)


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder, and gives it the name ``folder`` when the block ends without an error.

    If ``folder`` exists, its files of other names stay; see ``complete_files``.
    """
    if folder.is_dir():
        with complete_files(folder) as new:
            yield new
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, suffix=PART) as new:
        whole = Path(new) / folder.name  # a new folder, because the mode of a temporary one is 0700
        whole.mkdir()
        yield whole
        for path in whole.iterdir():
            flush(path)
        os.replace(whole, folder)


def encoded(text: str) -> bytes:
    """Returns a text in UTF-8, as ``write_text`` writes it."""
    # JSON decodes \\udc80, the escape of a byte of a file name that is not UTF-8, to the same byte.
    return text.encode("utf-8", errors="backslashreplace")


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8; see ``complete_file``."""
    with complete_file(path) as part:
        part.write_bytes(encoded(text))


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file for programs and people; see ``complete_file``."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file holds something else; the message names it.
    """
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # UTF-8, JSON, numbers of thousands of digits, nesting
        raise ValueError(f"{path} is damaged: it is not JSON ({error}). Repair it, or move it away.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object. Repair it, or move it away.")
    return found


def flush(path: Path) -> None:
    """Flushes the content of a file to the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(path: Path) -> str:
    """Returns the first 16 digits of a file's SHA-256. A process reads each file only once, as it may be large."""
    found = path.stat()
    return _fingerprint(path, found.st_mtime_ns, found.st_size)


@cache
def _fingerprint(path: Path, changed: int, size: int) -> str:
    return file_sha256(path)[:16]
