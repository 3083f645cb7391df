"""A folder of shards, on this machine or behind a URL. The files of a remote one are made and read in a local folder."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from nemo_birq.data.remote import PATIENCE, look
from nemo_birq.data.remote_files import (
    all_at_once,
    check_writable,
    copy_here,
    copy_there,
    list_files,
    remove_folder,
    write_new,
)
from nemo_birq.data.retries import RemoteError, is_missing
from nemo_birq.data.tables import cache_folder
from nemo_birq.utils.urls import find_secret_problem, is_url


class StoredFolder:
    """A folder with all its files; those of this machine need no copies, and all methods that copy do nothing then.

    Args:
        location: path or URL.
        local: where the files of a remote one are made and read; by default a folder in the cache that belongs to the URL.

    Raises:
        ValueError: a URL that may hold a secret, or whose files cannot be listed and written.
    """

    def __init__(self, location: Path | str, local: Path | None = None):
        self.url = str(location).rstrip("/") if is_url(location) else None
        if self.url is None:
            self.local = Path(location)
        else:
            if problem := find_secret_problem(self.url):
                raise ValueError(problem)
            check_writable(self.url)
            name = hashlib.sha256(self.url.encode()).hexdigest()[:16]
            self.local = local or cache_folder() / "builds" / name

    def __str__(self) -> str:
        return self.url or str(self.local)

    def sizes(self) -> dict[str, int]:
        """Returns the sizes in bytes of all files, by their names relative to the folder; errors as ``list_files``."""
        if self.url:
            return list_files(self.url)
        files = (path for path in self.local.rglob("*") if path.is_file())
        return {path.relative_to(self.local).as_posix(): path.stat().st_size for path in files}

    def tops(self) -> set[str]:
        """Returns the names of the files and folders in it; errors as ``list_files``."""
        return {name.partition("/")[0] for name in _listed(self.url)} if self.url else set(os.listdir(self.local))

    def claim(self, name: str, content: bytes) -> bytes | None:
        """Writes a small file to the store where there is none yet; returns the one that is there. See ``write_new``."""
        return write_new(f"{self.url}/{name}", content) if self.url else None

    def fetch(self, names: Iterable[str]) -> None:
        """Makes the local files of these names the ones of the store; what the store lacks is absent then.

        Raises:
            RemoteError: one cannot be read.
        """
        if self.url:
            all_at_once(self._fetch, ((name,) for name in names))

    def send(self, names: Iterable[str]) -> None:
        """Copies local files to the store; raises a RemoteError where that fails."""
        if self.url:
            all_at_once(copy_there, ((self.local / name, f"{self.url}/{name}") for name in names))

    def drop(self, names: Iterable[str]) -> None:
        """Removes local files that the store has."""
        if self.url:
            for name in names:
                (self.local / name).unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Removes a folder inside, with all its files, also in the store."""
        if self.url:
            remove_folder(f"{self.url}/{name}")
        if (self.local / name).exists():
            shutil.rmtree(self.local / name)

    def is_whole(self, sizes: dict[str, int]) -> bool:
        """Tests if the store has files of these sizes."""
        try:
            return all(look(f"{self.url}/{name}", PATIENCE).size == size for name, size in sizes.items())
        except RemoteError as error:
            if not is_missing(error):
                raise
            return False

    def _fetch(self, name: str) -> None:
        try:
            copy_here(f"{self.url}/{name}", self.local / name)
        except RemoteError as error:
            if not is_missing(error):
                raise
            (self.local / name).unlink(missing_ok=True)


@contextmanager
def opened(location: Path | str) -> Iterator[StoredFolder]:
    """Yields a folder to be read; the local files of a remote one are removed in the end."""
    if not is_url(location):
        yield StoredFolder(location)
        return
    (cache_folder() / "reading").mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cache_folder() / "reading") as local:
        yield StoredFolder(location, Path(local))


def _listed(url: str) -> dict[str, int]:
    """Returns the files of a folder, none where even the bucket is missing: writing will say so."""
    try:
        return list_files(url)
    except RemoteError as error:
        if not is_missing(error):
            raise
        return {}
