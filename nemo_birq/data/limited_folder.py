"""A folder of copies with a limit to its size: the files that were used least recently go first.

Several processes may use it at once, each knowing of its own additions alone. Nothing in it is needed: what is missing is
copied again. The file systems of fsspec that keep copies (filecache, blockcache) have no limit, and the clean-up of
webdataset ends at the first file that another process has removed.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

STEPS = 500
"""Part of the limit that a process may add before it looks at the folder again."""
KEPT = 0.95
"""Part of the limit that is left after a look at a folder that is too large."""
USE_AGAIN = 60.0
"""Seconds after which another use of a file is noted."""


class LimitedFolder:
    """Keeps a folder below a size.

    Args:
        folder: for files at any depth; it is made when the first is written.
        limit: bytes on the disk of all of them.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        self._added = limit  # files that exist already are counted once
        self._noted: dict[Path, float] = {}

    def use(self, path: Path) -> None:
        """Notes that a file is used."""
        now = time.time()
        if now - self._noted.get(path, 0.0) > USE_AGAIN:
            self._noted[path] = now
            with suppress(OSError):  # removed meanwhile
                os.utime(path, (now, os.stat(path).st_mtime))

    def add(self, size: int) -> None:
        """Notes that so many bytes were written, and removes the files that were used least recently now and then."""
        self._added += size
        if self._added < self.limit / STEPS:
            return
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                self._shrink()
        except Timeout:
            return  # another process does it
        self._added = 0

    def _shrink(self) -> None:
        files = sorted(_files(str(self.folder)))
        total = sum(size for _, size, _ in files)
        if total <= self.limit:
            return
        for _, size, path in files:
            with suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
            if total <= KEPT * self.limit:
                return


def _files(folder: str) -> Iterator[tuple[float, int, str]]:
    """Yields the time of the last use, the bytes on the disk and the path of each file."""
    for path, _, names in os.walk(folder):
        for name in names:
            if name == ".lock":
                continue
            with suppress(FileNotFoundError):
                found = os.stat(os.path.join(path, name))
                yield max(found.st_atime, found.st_mtime), found.st_blocks * 512, os.path.join(path, name)
