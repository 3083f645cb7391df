"""Functions that several recipes use."""

import hashlib
import os
from collections.abc import Iterable
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


def files_under(root: Path, leaving: list[Path] | None = None) -> list[Path]:
    """Returns all files at any depth except companions, also in linked folders, in the order of their names.

    Args:
        root: folder, which may be a link.
        leaving: receives the links to files and folders outside of ``root``, which are not followed; None: all are followed.
    """
    files, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a parent folder would be followed forever
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not is_companion(name)]
        names = [name for name in names if not is_companion(name)]
        if leaving is not None:
            out = {name for name in (*folders, *names) if not is_inside(os.path.join(folder, name), str(root))}
            leaving += [Path(folder) / name for name in out]
            folders[:] = [name for name in folders if name not in out]
            names = [name for name in names if name not in out]
        files += [Path(folder) / name for name in names]
    return sorted(path for path in files if path.is_file())


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
