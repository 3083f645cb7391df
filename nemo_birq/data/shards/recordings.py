"""Local copies of the recordings of a build; remote recordings are copied ahead of their use.

The reader of audio needs whole files, because headers may be wrong. To avoid a copy of the same recording for each of its
pieces, copies stay in the cache folder of the machine, up to ``NEMO_BIRQ_RECORDINGS_GB``.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path

from nemo_birq.data.audio.errors import AudioError
from nemo_birq.data.limited_folder import LimitedFolder
from nemo_birq.data.remote import PATIENCE, look
from nemo_birq.data.remote_files import copy_here
from nemo_birq.data.retries import RemoteError, is_missing
from nemo_birq.data.tables import cache_folder
from nemo_birq.utils.urls import is_url

NO_FILE = "there is no such file"
LIMIT, DEFAULT_GB = "NEMO_BIRQ_RECORDINGS_GB", 20.0
AHEAD = 8  # recordings
_ABANDONED = 86400.0  # seconds after which copies in use must belong to a process that was killed


def local_recordings(paths: Iterable[str]) -> Iterator[str | AudioError]:
    """Yields the local path of each file, which is valid until the next one is taken.

    Yields an AudioError for a remote file that does not exist.

    Args:
        paths: local paths and URLs.

    Raises:
        RemoteError: the store does not answer, or refuses access.
        ValueError: the limit of the copies is not a number.
    """
    paths, waiting = iter(paths), deque()
    with _Copies() as copies, ThreadPoolExecutor(AHEAD) as threads:

        def begin(more: Iterable[str]) -> None:
            waiting.extend((path, copies.begin(path, threads) if is_url(path) else None) for path in more)

        begin(islice(paths, AHEAD))
        while waiting:
            path, copying = waiting.popleft()
            if copying is None:
                yield path
            else:
                yield copying.result()
                copies.end(path)
            begin(islice(paths, 1))


class _Copies:
    """Copies that are in use. They are hard links, so that any process may remove the cached copies."""

    def __init__(self):
        self._root = cache_folder() / "recordings"
        self._kept = LimitedFolder(self._root / "kept", _limit())
        self._copying: dict[str, Future[str | AudioError]] = {}
        self._uses: Counter[str] = Counter()
        self._folder: Path | None = None

    def __enter__(self) -> "_Copies":
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def begin(self, url: str, threads: ThreadPoolExecutor) -> Future[str | AudioError]:
        """Begins to copy a file, unless a copy is in use."""
        if self._folder is None:
            self._folder = _new_folder(self._root / "in_use")
        self._uses[url] += 1
        if url not in self._copying:
            self._copying[url] = threads.submit(self._copy, url)
        return self._copying[url]

    def end(self, url: str) -> None:
        """Ends the use of a copy, and removes it if it has no other."""
        self._uses[url] -= 1
        if not self._uses[url]:
            found = self._copying.pop(url).result()
            if isinstance(found, str):
                os.unlink(found)

    def _copy(self, url: str) -> str | AudioError:
        try:
            version = look(url, PATIENCE)
        except RemoteError as error:
            if is_missing(error):
                return AudioError("missing", NO_FILE)
            raise
        name = hashlib.sha256(json.dumps([url, version]).encode()).hexdigest()[:32]
        used, kept = self._folder / name, self._kept.folder / name[:2] / name
        try:
            os.link(kept, used)
        except FileNotFoundError:
            copy_here(url, used, version)
            if self._kept.limit:
                kept.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileExistsError, FileNotFoundError):  # another process cached it, too, or removed the folder
                    os.link(used, kept)
                self._kept.add(version.size)
        self._kept.use(kept)
        return str(used)


def _new_folder(parent: Path) -> Path:
    """Makes a folder, and removes those of processes that were killed."""
    parent.mkdir(parents=True, exist_ok=True)
    for other in parent.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - other.stat().st_mtime > _ABANDONED:
                shutil.rmtree(other, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=parent))


def _limit() -> int:
    text = os.environ.get(LIMIT, str(DEFAULT_GB))
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise ValueError(f"{LIMIT}={text} must be a number of gigabytes from 0 on; unset it for {DEFAULT_GB:.0f}")
    return int(limit * 1e9)
