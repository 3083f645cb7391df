"""Counts the file operations of a run, and kills or limits the run at one of them.

Python reports an operation before its execution (``sys.addaudithook``), so a kill at operation n is a kill after n - 1.
``os.fsync`` is not reported and is therefore wrapped. Writes to an open file are not operations. A limit of the file size,
which is set when the file is opened, ends the process in the middle of them.
"""

import contextlib
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATHS = {
    "os.rename": ((0, 2), (1, 3)), "os.link": ((0, 2), (1, 3)), "os.symlink": ((1, 2),), "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),), "os.mkdir": ((0, 2),), "os.truncate": ((0, None),),
}  # fmt: skip
"""Positions of each path of an audit event, and of the descriptor of the folder that it is relative to."""
CREATING = ("os.symlink", "os.mkdir")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Operation:
    """One file operation below a folder."""

    kind: str
    """Audit event, such as ``os.rename``; ``open`` is to write."""
    paths: tuple[str, ...]
    """Paths relative to the folder."""

    def __str__(self) -> str:
        return f"{self.kind.removeprefix('os.')} {' -> '.join(self.paths)}"

    @property
    def group(self) -> str:
        """The operation without numbers, which similar operations share."""
        return re.sub(r"\d[\d.]*\d|\d", "*", re.sub(r"/tmp\w+|tfevents.*", "*", str(self)))


@dataclass(frozen=True)
class Recording:
    """Writes the operations below a folder to ``file``, one a line."""

    file: Path

    def __call__(self, folder: Path) -> None:
        descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        watch(folder, lambda _, op: os.write(descriptor, f"{json.dumps([op.kind, op.paths])}\n".encode()))


def recorded(file: Path) -> list[Operation]:
    """Reads the file of a ``Recording``."""
    lines = (json.loads(line) for line in file.read_text().splitlines())
    return [Operation(kind, tuple(paths)) for kind, paths in lines]


@dataclass(frozen=True)
class SignalAt:
    """Sends the process a signal before operation ``number``, counted from 0."""

    number: int
    what: signal.Signals = signal.SIGKILL

    def __call__(self, folder: Path) -> None:
        watch(folder, lambda number, _: number == self.number and os.kill(os.getpid(), self.what))


@dataclass(frozen=True)
class LimitAt:
    """Limits the size of files from operation ``number`` on.

    Beyond the limit the kernel ends the process, which leaves a partly written file. With ``full_disk``, every write beyond
    it is an error.
    """

    number: int
    size: int
    """In bytes."""
    full_disk: bool = False

    def __call__(self, folder: Path) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN if self.full_disk else signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        watch(folder, self._limit)

    def _limit(self, number: int, _: Operation) -> None:
        if number == self.number:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))


def watch(folder: Path, reached: Callable[[int, Operation], Any]) -> None:
    """Calls ``reached`` before each operation below the folder, with its number, for the rest of the process."""
    root = f"{folder}/"
    owner, number, is_inside = os.getpid(), 0, False

    def observe(event: str, paths: list[str]) -> None:
        nonlocal number, is_inside
        if is_inside or os.getpid() != owner or not any(f"{path}/".startswith(root) for path in paths):
            return
        is_inside = True  # operations of the callback do not belong to the run
        try:
            reached(number, Operation(event, tuple(os.path.relpath(path, folder) for path in paths)))
            number += 1
        finally:
            is_inside = False

    def audit(event: str, arguments: tuple) -> None:
        if event == "open":
            if (
                isinstance(arguments[2], int)
                and arguments[2] & WRITING
                and isinstance(arguments[0], str | bytes | os.PathLike)
            ):
                observe(event, [_absolute(arguments[0], None)])
        elif event in PATHS:
            paths = [_absolute(arguments[i], None if at is None else arguments[at]) for i, at in PATHS[event]]
            if os.path.lexists(paths[0]) != (event in CREATING):  # else it changes nothing
                observe(event, paths)

    fsync = os.fsync

    def watched_fsync(file: Any) -> None:
        with contextlib.suppress(OSError):
            observe("fsync", [os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")])
        fsync(file)

    os.fsync = watched_fsync
    sys.addaudithook(audit)


def _absolute(path: Any, folder: int | None) -> str:
    """Returns an absolute path; ``folder`` is the descriptor of the folder to which it is relative, or -1 or None."""
    name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else os.readlink(f"/proc/self/fd/{path}")
    start = os.readlink(f"/proc/self/fd/{folder}") if folder is not None and folder >= 0 else os.getcwd()
    return os.path.normpath(os.path.join(start, name))
