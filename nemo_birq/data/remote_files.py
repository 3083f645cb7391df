"""Listing, copying and removal of whole files behind URLs, through fsspec."""

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

AT_ONCE = 16  # files that are copied in parallel
NOT_LISTED = ("http", "https")


def list_files(folder: str) -> dict[str, int]:
    """Returns the sizes in bytes of all files under a remote folder, at any depth, by their names relative to it.

    A folder that does not exist has no files.

    Raises:
        RemoteError: the store cannot be read, for example because the bucket does not exist.
        ValueError: no installed package reads such URLs, or they are those of a web server, which has no listing.
    """
    if folder.partition("://")[0].lower() in NOT_LISTED:
        raise ValueError(
            f"{without_secrets(folder)} cannot be listed, because web servers have no common listing: name the files in a "
            "manifest"
        )
    system, path = open_system(folder)
    system.invalidate_cache()
    found = repeat(folder, FIRST_LOOK, lambda: system.find(path, detail=True))
    # A store may have an object with the name of the folder, or a placeholder for it.
    start = f"{path.rstrip('/')}/"
    names = {name: info for name, info in found.items() if name.startswith(start) and name != start}
    return {name.removeprefix(start): int(info["size"]) for name, info in names.items() if info["type"] == "file"}


def copy_here(url: str, target: Path, version: Version | None = None) -> None:
    """Copies a remote file to this machine. The target is complete or does not exist.

    Args:
        url: URL of the file.
        target: path of the copy.
        version: required version, see ``remote.look``; None: the present one.

    Raises:
        RemoteError: the file cannot be read, or is replaced repeatedly during the copy.
        OSError: the target cannot be written, for example because the disk is full.
    """
    version = version or look(url, PATIENCE)
    system, path = open_system(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=target.parent, suffix=PART)
    os.close(handle)
    try:
        for _ in range(2):  # a second time if the file was replaced in between
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
        raise RemoteError(
            f"{without_secrets(url)} cannot be copied completely ({os.path.getsize(part)} of {version.size} bytes): run the "
            "command again when nothing writes to the file"
        )
    finally:
        Path(part).unlink(missing_ok=True)


def copy_there(source: Path, url: str) -> None:
    """Copies a local file to a URL and replaces an existing file. Object stores show a file only when it is complete.

    Raises:
        RemoteError: the file cannot be written.
    """
    system, path = open_system(url)
    repeat(url, PATIENCE, lambda: system.put_file(str(source), path), verb="write")


def check_writable(url: str) -> None:
    """Raises a ValueError if such URLs cannot be written."""
    if url.partition("://")[0].lower() in NOT_LISTED:
        raise ValueError(
            f"{without_secrets(url)} cannot be written, because web servers have no common protocol for it: give an object "
            "store"
        )


def write_new(url: str, content: bytes) -> bytes | None:
    """Writes a small file if it does not exist.

    Returns:
        The content of an existing file; None if the file is new.

    Raises:
        RemoteError: the file cannot be read or written.
    """
    system, path = open_system(url)
    try:
        found = repeat(url, FIRST_LOOK, lambda: system.cat_file(path))
    except RemoteError as error:
        if not is_missing(error):
            raise
    else:
        repeat(url, FIRST_LOOK, lambda: system.pipe_file(path, found), verb="write")  # checks the permission
        return found
    try:
        repeat(url, FIRST_LOOK, lambda: system.pipe_file(path, content, mode="create"), verb="write")
    except RemoteError as error:
        if not isinstance(error.__cause__, FileExistsError):
            raise
        return repeat(url, FIRST_LOOK, lambda: system.cat_file(path))
    return None


def remove_folder(url: str) -> None:
    """Removes all files under a remote folder; errors as ``list_files``, also for a refusal to remove."""
    system, path = open_system(url)
    if list_files(url):
        repeat(url, PATIENCE, lambda: system.rm(path, recursive=True), verb="write")


def all_at_once(action: Callable[..., Any], arguments: Iterable[tuple]) -> None:
    """Calls a function with each tuple of arguments, some of them in parallel; raises the first error."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for _ in threads.map(lambda given: action(*given), arguments):
            pass
