"""Whole files behind URLs through fsspec: listed, copied to this machine and from it, and removed."""

import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nemo_birq.data.file_systems import open_system
from nemo_birq.data.remote import FIRST_LOOK, PATIENCE, Version, look
from nemo_birq.data.retries import RemoteError, is_missing, repeat
from nemo_birq.utils.files import DISK_FULL, PART
from nemo_birq.utils.urls import without_secrets

AT_ONCE = 16  # files that are copied side by side
NOT_LISTED = ("http", "https")


def list_files(folder: str) -> dict[str, int]:
    """Returns the sizes of all files under a remote folder, at any depth, by their names relative to it.

    Raises:
        RemoteError: it cannot be read, such as a bucket that does not exist. A folder that does not exist has no files.
        ValueError: nothing installed reads such URLs, or its server has no lists of files.
    """
    if folder.partition("://")[0].lower() in NOT_LISTED:
        raise ValueError(f"{without_secrets(folder)} cannot be listed, since web servers have no common way: name the files")
    system, path = open_system(folder)
    system.invalidate_cache()
    found = repeat(folder, FIRST_LOOK, lambda: system.find(path, detail=True))
    # A store may have an object that is named like the folder, or stands for it.
    start = f"{path.rstrip('/')}/"
    names = {name: info for name, info in found.items() if name.startswith(start) and name != start}
    return {name.removeprefix(start): int(info["size"]) for name, info in names.items() if info["type"] == "file"}


def copy_here(url: str, target: Path, version: Version | None = None) -> None:
    """Copies a remote file to this machine; it is whole or absent.

    Args:
        version: that the file must have, see ``remote.look``; None: the one that is there.

    Raises:
        RemoteError: it cannot be read, or is replaced again and again while it is.
        OSError: it cannot be written here, such as to a full disk.
    """
    version = version or look(url, PATIENCE)
    system, path = open_system(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=target.parent, suffix=PART)
    os.close(handle)
    try:
        for _ in range(2):  # once more, where it has been replaced since
            repeat(url, PATIENCE, lambda: system.get_file(path, part))
            if os.path.getsize(part) == version.size:
                os.replace(part, target)
                return
            version = look(url, PATIENCE)
    except RemoteError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in DISK_FULL:
            raise error.__cause__ from None
        raise
    else:
        raise RemoteError(f"{without_secrets(url)} does not come whole: {os.path.getsize(part)} of {version.size} bytes")
    finally:
        Path(part).unlink(missing_ok=True)


def copy_there(source: Path, url: str) -> None:
    """Copies a file of this machine to a URL, in place of what is there. Object stores show it once it is whole.

    Raises:
        RemoteError: it cannot be written.
    """
    system, path = open_system(url)
    repeat(url, PATIENCE, lambda: system.put_file(str(source), path), verb="write")


def check_writable(url: str) -> None:
    """Raises a ValueError where nothing can be written to such URLs."""
    if url.partition("://")[0].lower() in NOT_LISTED:
        raise ValueError(f"{without_secrets(url)} cannot be written: web servers have no common way; name an object store")


def write_new(url: str, content: bytes) -> bytes | None:
    """Writes a small file where there is none yet; returns the content of the one that is there, None for the new one.

    Raises:
        RemoteError: it cannot be read or written.
    """
    system, path = open_system(url)
    try:
        found = repeat(url, FIRST_LOOK, lambda: system.cat_file(path))
    except RemoteError as error:
        if not is_missing(error):
            raise
    else:
        repeat(url, FIRST_LOOK, lambda: system.pipe_file(path, found), verb="write")  # which shows that it may be done
        return found
    try:
        repeat(url, FIRST_LOOK, lambda: system.pipe_file(path, content, mode="create"), verb="write")
    except RemoteError as error:
        if not isinstance(error.__cause__, FileExistsError):
            raise
        return repeat(url, FIRST_LOOK, lambda: system.cat_file(path))
    return None


def remove_folder(url: str) -> None:
    """Removes all files under a remote folder, if there are any; errors as ``list_files``, for writing."""
    system, path = open_system(url)
    if list_files(url):
        repeat(url, PATIENCE, lambda: system.rm(path, recursive=True), verb="write")


def all_at_once(action: Callable[..., Any], arguments: Iterable[tuple]) -> None:
    """Runs an action for many files, some of them side by side; raises the first error."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for _ in threads.map(lambda given: action(*given), arguments):
            pass
