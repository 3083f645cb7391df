"""Runs commands in a folder with a fork server and limits of time and memory."""

import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.reliability.fork_server import ForkServer, Start

GIB = 2**30


@dataclass(frozen=True)
class MemoryLimit:
    """Limits the address space of the calling process to its current size plus a number of bytes."""

    size: int

    def __call__(self) -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + self.size, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Ended(NamedTuple):
    """The ending of a command."""

    code: int | None
    """Exit code, negative after a signal; None: it was still running at the limit of time."""
    output: str
    errors: str
    """Standard error output."""
    seconds: float


class Stage:
    """Runs commands.

    Args:
        server: server that forks the processes.
        folder: folder of temporary files and caches of the commands.
    """

    def __init__(self, server: ForkServer, folder: Path):
        self.server, self.folder = server, folder
        temporary = folder / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        self.env = {
            "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "TMPDIR": str(temporary), "COLUMNS": "200",
            "MPLCONFIGDIR": str(folder / "matplotlib"), "NEMO_BIRQ_CACHE": "cache",
        }  # fmt: skip

    def run(
        self, arguments: Sequence[str], folder: Path, timeout: float = 120.0, entry: str = "nemo_birq.cli:main"
    ) -> Ended:
        """Runs a command in a folder and waits for its end; kills it and its descendants at the time limit."""
        logs = [self.folder / "output", self.folder / "errors"]
        for log in logs:
            log.unlink(missing_ok=True)
        began = time.monotonic()
        start = Start(arguments, logs[0], folder, self.env, errors=logs[1], entry=entry, before=MemoryLimit(4 * GIB))
        child, code = self.server.start(start), None
        try:
            code = child.wait(timeout)
        except TimeoutError:
            pass
        finally:
            child.kill_group()
        if code is None:
            child.wait(10.0)
        return Ended(code, *(log.read_text(encoding="utf-8", errors="replace") for log in logs), time.monotonic() - began)

    def succeed(self, arguments: Sequence[str], folder: Path, **options: object) -> Ended:
        """Runs a command that makes a good input.

        Raises:
            RuntimeError: it failed.
        """
        ended = self.run(arguments, folder, **options)
        if ended.code != 0:
            raise RuntimeError(f"{' '.join(arguments)} in {folder} ended with {ended.code}:\n{ended.errors[-3000:]}")
        return ended
