"""A folder of copies with a size limit, from which the least recently used files are removed first.

Several processes may use it at once; each knows only its own additions. Any file may be removed, because missing files are
copied again. The caching file systems of fsspec (filecache, blockcache) have no limit, and the clean-up of webdataset stops
at the first file that another process has removed.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

STEPS = 500
"""A process measures the folder again after it has added 1/``STEPS`` of the limit."""
KEPT = 0.95
"""Share of the limit to which a folder that is too large is reduced."""
USE_AGAIN = 60.0
"""Seconds after which another use of a file is recorded."""


class LimitedFolder:
    """Keeps the size of a folder below a limit.

    Args:
        folder: folder with files at any depth, which need not exist yet.
        limit: largest size of all files on the disk, in bytes.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        self._added = limit  # files that exist already are counted once
        self._noted: dict[Path, float] = {}

    def use(self, path: Path) -> None:
        """Records that a file is used."""
        now = time.time()
        if now - self._noted.get(path, 0.0) > USE_AGAIN:
            self._noted[path] = now
            with suppress(OSError):  # another process may have removed it
                os.utime(path, (now, os.stat(path).st_mtime))

    def add(self, size: int) -> None:
        """Records the number of bytes written, and from time to time removes the least recently used files."""
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
