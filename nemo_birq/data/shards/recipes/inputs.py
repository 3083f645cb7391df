"""Functions that several recipes use."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from nemo_birq.data.audio.suffixes import SUFFIXES

COMPANIONS = {".ds_store", "thumbs.db", "desktop.ini", "__macosx", "@eadir"}
"""Names, in lower case, of files and folders that operating systems and file servers add beside the files of users."""


def require_folder(path: Path, remedy: str) -> None:
    if not path.is_dir():
        raise FileNotFoundError(f"the folder {path} does not exist: {remedy}")


def is_companion(name: str) -> bool:
    """Returns True for a file or folder that an operating system made, such as ``._a.wav``, where macOS keeps attributes."""
    return name.startswith("._") or name.lower() in COMPANIONS


def files_under(root: Path) -> list[Path]:
    """Returns all files of ``walk``."""
    return [Path(path) for path in walk(root)]


def walk(root: Path, leaving: list[str] | None = None, without: Path | None = None) -> Iterator[str]:
    """Yields the paths of all files at any depth except companions, also in linked folders, in the order of their names.

    Only the names of one folder of each depth are in memory.

    Args:
        root: folder, which may be a link.
        leaving: receives the links to files and folders outside of ``root``, which are not followed; None: all are followed.
        without: folder that is left out.
    """
    seen = set() if without is None else {os.path.realpath(without)} - {os.path.realpath(root)}
    yield from _walk(str(root), str(root), seen, leaving)


def _walk(folder: str, root: str, seen: set[str], leaving: list[str] | None) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in seen:  # a link to a parent folder would be followed forever
        return
    seen.add(real)
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not is_companion(entry.name)), key=lambda entry: entry.name)
    except OSError:  # a folder that may not be read
        return
    for entry in entries:
        if leaving is not None and not is_inside(entry.path, root):
            leaving.append(entry.path)
        elif os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
            yield from _walk(entry.path, root, seen, leaving)
        elif os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file():
            yield entry.path


def is_inside(path: str, root: str) -> bool:
    """Tests if a file or folder is under ``root`` when all links are resolved."""
    top = _real_folder(root)
    return f"{real_path(path)}/".startswith(f"{top.rstrip('/')}/")


def real_path(path: str) -> str:
    """Returns the path of a file or folder with all links resolved; the paths of folders are cached."""
    folder, name = os.path.split(path)
    return os.path.realpath(path) if os.path.islink(path) else os.path.join(_real_folder(folder), name)


@lru_cache(maxsize=100_000)
def _real_folder(path: str) -> str:
    return os.path.realpath(path)


def fingerprint(root: Path, files: Iterable[Path]) -> dict:
    """Returns number, names and sizes of files, by which a change of the input between two runs is detected."""
    return fingerprint_of_sizes((path.relative_to(root).as_posix(), path.stat().st_size) for path in sorted(files))


def fingerprint_of_sizes(files: Iterable[tuple[str, int]]) -> dict:
    """Returns the fingerprint of files, given by name and size in bytes in the order of the parts of their names."""
    digest, count = hashlib.sha256(), 0
    for name, size in files:
        digest.update(f"{name} {size}\n".encode(errors="surrogateescape"))
        count += 1
    return {"files": count, "names_and_sizes": digest.hexdigest()[:16]}


def without_suffix(name: str) -> str:
    """Returns a relative path without the suffix of an audio file."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in SUFFIXES else name
