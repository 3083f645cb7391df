"""A lock that allows one run at a time in the folder of an experiment."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"
PATIENCE = 10.0
"""Seconds to wait for the lock, because the workers of a killed run hold it for a moment."""


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder within the block; the system also releases it if the process is killed.

    The lock file stays and names the process that had the lock last.

    Raises:
        ValueError: another process has the lock; the message names host, process and time.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    lock = FileLock(path)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout as error:
        raise ValueError(
            f"another run is training in {folder.parent} ({_holder(path)}). Wait for it or stop it, or give this run "
            "another name= or exp_manager.exp_dir="
        ) from error
    try:
        path.write_text(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}\n")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or "it has just started"
    except OSError as error:
        return f"{path} cannot be read: {error}"
