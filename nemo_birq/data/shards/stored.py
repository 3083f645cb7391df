"""A folder of shards on the local disk or behind a URL. Files of a remote folder are written and read in a local copy."""

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
    """A folder with all its files. For a local folder, the methods that copy files do nothing.

    Args:
        location: path or URL.
        local: local copy of a remote folder; by default a folder in the cache that depends on the URL.

    Raises:
        ValueError: the URL may have a secret, or its files cannot be listed and written.
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
        """Returns the names of the files and folders at the top level; errors as ``list_files``."""
        return {name.partition("/")[0] for name in _listed(self.url)} if self.url else set(os.listdir(self.local))

    def claim(self, name: str, content: bytes) -> bytes | None:
        """Writes a small file to the store if it does not exist; otherwise returns the existing one. See ``write_new``."""
        return write_new(f"{self.url}/{name}", content) if self.url else None

    def fetch(self, names: Iterable[str]) -> None:
        """Copies files from the store, and removes local files that the store does not have.

        Raises:
            RemoteError: a file cannot be read.
        """
        if self.url:
            all_at_once(self._fetch, ((name,) for name in names))

    def send(self, names: Iterable[str]) -> None:
        """Copies local files to the store; raises a RemoteError if this fails."""
        if self.url:
            all_at_once(copy_there, ((self.local / name, f"{self.url}/{name}") for name in names))

    def drop(self, names: Iterable[str]) -> None:
        """Removes local files that the store has."""
        if self.url:
            for name in names:
                (self.local / name).unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Removes a folder in this folder with all its files, also in the store."""
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
    """Yields a folder for reading, and removes the local copy of a remote folder at the end."""
    if not is_url(location):
        yield StoredFolder(location)
        return
    (cache_folder() / "reading").mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cache_folder() / "reading") as local:
        yield StoredFolder(location, Path(local))


def _listed(url: str) -> dict[str, int]:
    """Returns the sizes of the files of a folder by name, none if even the bucket is missing, which writing will report."""
    try:
        return list_files(url)
    except RemoteError as error:
        if not is_missing(error):
            raise
        return {}
