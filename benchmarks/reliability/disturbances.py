"""Disturbances of one start of a run: kills, signals, a full disk, and damage to a checkpoint afterwards."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reliability.file_operations import LimitAt, Recording, SignalAt
from benchmarks.reliability.fork_server import POLL_SECONDS, Child

DAMAGES = ("truncated", "empty", "zeros", "garbage")


@dataclass(frozen=True)
class Disturbance:
    """A disturbance of one start. Without any field, the start is not disturbed."""

    name: str = "undisturbed"
    in_child: Callable[[Path], None] | None = None
    """Called in rank 0 before the command, with the folder that the run writes below."""
    from_outside: Callable[[list[Child]], None] | None = None
    """Called with the processes of all ranks while they run."""
    afterwards: Callable[[Path], None] | None = None
    """Called with the folder of the experiment after the start."""
    signal: int | None = None
    """Signal that the run must answer with exit code 128 + signal and a checkpoint of all finished steps."""


def kill_at(number: int, what: object = "") -> Disturbance:
    """Kills rank 0 before its file operation ``number``."""
    return Disturbance(f"SIGKILL before operation {number}: {what}".rstrip(": "), in_child=SignalAt(number))


def kill_inside(number: int, size: int, what: object = "") -> Disturbance:
    """Kills rank 0 when a file becomes larger than ``size`` bytes, from its file operation ``number`` on."""
    name = f"SIGKILL inside a file at {size} bytes, after operation {number}: {what}"
    return Disturbance(name, in_child=LimitAt(number, size))


def fill_disk(number: int, size: int, what: object = "") -> Disturbance:
    """Makes every write beyond ``size`` bytes an error, from file operation ``number`` on."""
    name = f"no space beyond {size} bytes, after operation {number}: {what}"
    return Disturbance(name, in_child=LimitAt(number, size, full_disk=True))


def record(file: Path) -> Disturbance:
    """Writes the file operations of an undisturbed start to a file."""
    return Disturbance(in_child=Recording(file))


def kill_after(seconds: float, rank: int | None = None) -> Disturbance:
    """Kills all processes after a time, or those of one rank."""

    def kill(children: list[Child]) -> None:
        _sleep(seconds, children)
        for child in children if rank is None else [children[rank]]:
            child.kill_group()

    return Disturbance(f"SIGKILL{'' if rank is None else f' to rank {rank}'} after {seconds:.2f} s", from_outside=kill)


def send_after(seconds: float, number: signal.Signals, again_after: float | None = None) -> Disturbance:
    """Sends a signal to all ranks after a time, and perhaps a second time."""

    def send(children: list[Child]) -> None:
        for pause in (seconds, again_after):
            if pause is not None:
                _sleep(pause, children)
                for child in children:
                    child.send(number)

    twice = "" if again_after is None else f", again after {again_after:.2f} s"
    return Disturbance(f"{number.name} after {seconds:.2f} s{twice}", from_outside=send, signal=number)


def send_at(number: int, what: signal.Signals) -> Disturbance:
    """Sends a signal to rank 0 before its file operation ``number``."""
    return Disturbance(f"{what.name} before operation {number}", in_child=SignalAt(number, what), signal=what)


def damaged(disturbance: Disturbance, kind: str) -> Disturbance:
    """Adds damage to the newest ``-last.ckpt`` after a start."""
    return Disturbance(
        f"{disturbance.name}; its newest checkpoint is then {kind}", disturbance.in_child, disturbance.from_outside,
        lambda folder: damage(folder, kind),
    )  # fmt: skip


def damage(folder: Path, kind: str) -> None:
    """Damages the newest ``-last.ckpt`` of an experiment, if there is one; ``kind`` is one of ``DAMAGES``."""
    path = max((folder / "checkpoints").glob("*-last.ckpt"), key=lambda file: file.stat().st_mtime_ns, default=None)
    if path is None:
        return
    size = path.stat().st_size
    contents = {
        "truncated": lambda: path.read_bytes()[: size // 2],
        "empty": lambda: b"",
        "zeros": lambda: bytes(size),
        "garbage": lambda: random.Random(0).randbytes(size),
    }
    path.write_bytes(contents[kind]())


def _sleep(seconds: float, children: list[Child]) -> None:
    """Waits, at most until all processes have ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(child.poll() is None for child in children):
        time.sleep(POLL_SECONDS)
