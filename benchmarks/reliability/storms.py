"""A storm: one run that is disturbed at its first starts, restarted until it ends, and then compared."""

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from benchmarks.reliability.disturbances import Disturbance
from benchmarks.reliability.fork_server import POLL_SECONDS, Child, ForkServer, Start
from benchmarks.reliability.outcome import differences, last_checkpoint_step, read_outcome
from benchmarks.reliability.runs import NAME, Run, rank_environments
from nemo_birq.runs.checkpoints import DAMAGED

LONGEST_START = 180.0
"""Seconds after which a start counts as hanging."""
LONGEST_GRACE = 60.0
"""Seconds that the other ranks have to end after one of them has ended."""
MOST_STARTS = 12
STEP = re.compile(r"\bstep (\d+) \|")


@dataclass(frozen=True)
class Storm:
    """A run with disturbances of its first starts; later starts are not disturbed."""

    kind: str
    run: Run
    disturbances: Sequence[Disturbance]
    disk: int | None = None
    """Bytes of the disk during the first start; None: no limit. Needs the right to mount."""

    @property
    def does_damage(self) -> bool:
        """True if a checkpoint is damaged between two starts, which the run renames."""
        return any(disturbance.afterwards is not None for disturbance in self.disturbances)

    def __str__(self) -> str:
        return f"{self.kind}, {self.run.name}: {' | '.join(d.name for d in self.disturbances)}"


@dataclass
class Result:
    """The ending of a storm."""

    storm: str
    kind: str
    run: str
    starts: int = 0
    kills: int = 0
    """Starts that did not end by themselves."""
    complaints: list[str] = field(default_factory=list)
    """Differences from the uninterrupted run and broken guarantees; empty if the storm succeeded."""
    needed_a_person: str | None = None
    """Message of an undisturbed start that failed."""
    longest_wait: float = 0.0
    """Seconds that other ranks continued after one had ended."""
    seconds: float = 0.0
    processor_seconds: float = 0.0
    """Processor seconds, summed over all starts."""

    @property
    def is_well(self) -> bool:
        return not self.complaints and self.needed_a_person is None


class Stage:
    """Starts runs in a folder, with their temporary files on another disk if there is one.

    Args:
        server: server that forks the processes.
        folder: folder in which each run gets a folder.
        temporary: folder for temporary files of the runs.
    """

    def __init__(self, server: ForkServer, folder: Path, temporary: Path):
        self.server, self.folder = server, folder
        temporary.mkdir(parents=True, exist_ok=True)
        server.wait_until_ready()
        self.env = {
            "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "TMPDIR": str(temporary),
            "NEMO_BIRQ_CACHE": str(folder / "cache"), "MPLCONFIGDIR": str(folder / "cache"),
        }  # fmt: skip

    def uninterrupted(self, run: Run, name: str, disturbance: Disturbance) -> tuple[dict[str, Any], float]:
        """Trains without a disturbance (``disturbance`` may record); returns the outcome and the seconds.

        Raises:
            RuntimeError: the run failed.
        """
        folder, began = self.folder / name, time.monotonic()
        folder.mkdir(parents=True)
        codes, _, _ = self._start(run, folder, disturbance)
        if any(codes):
            raise RuntimeError(f"the uninterrupted run failed, {folder}/log0: {message(folder / 'log0')}")
        seconds = time.monotonic() - began
        return read_outcome(folder / NAME), seconds

    def weather(self, storm: Storm, expected: dict[str, Any], name: str) -> Result:
        """Runs a storm, and removes its folder if it succeeds."""
        result = Result(str(storm), storm.kind, storm.run.name)
        folder, began = self.folder / name, time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with _disk(folder / NAME, storm.disk):
            self._starts(storm, folder, result)
            if result.needed_a_person is None:
                found = differences(read_outcome(folder / NAME), expected, values=storm.run.is_exact)
                result.complaints += [line for line in found if not storm.does_damage or not line.endswith(DAMAGED)]
        result.seconds = time.monotonic() - began
        if result.is_well:
            shutil.rmtree(folder)
        return result

    def _starts(self, storm: Storm, folder: Path, result: Result) -> None:
        log, experiment, left_alone = folder / "log0", folder / NAME, Disturbance()
        for disturbance in chain(storm.disturbances, repeat(left_alone, MOST_STARTS)):
            size, saved = log.stat().st_size if log.exists() else 0, last_checkpoint_step(experiment)
            codes, waited, used = self._start(storm.run, folder, disturbance)
            result.starts += 1
            result.processor_seconds += used
            result.longest_wait = max(result.longest_wait, waited)
            if storm.disk is not None and result.starts == 1:
                subprocess.run(["mount", "-o", "remount,size=256m", str(experiment)], check=True)
            steps = [int(step) for step in STEP.findall(log.read_text(errors="replace")[size:])]
            if steps and steps[0] < saved:
                result.complaints.append(
                    f"start {result.starts} began at step {steps[0]}, and a checkpoint had {saved} steps"
                )
            if not any(codes):
                if disturbance is left_alone:
                    return
                continue  # it ended before the disturbance, so the same command runs after the end
            result.kills += disturbance is not left_alone
            if disturbance.signal is not None:
                result.complaints += _broken_promises(disturbance, codes, steps, experiment)
            if disturbance.afterwards is not None:
                disturbance.afterwards(experiment)
            if disturbance is left_alone:
                result.needed_a_person = f"exit codes {codes}: {message(log)}"
                return
        result.needed_a_person = f"not at its end after {result.starts} starts"

    def _start(self, run: Run, folder: Path, disturbance: Disturbance) -> tuple[list[int], float, float]:
        """Starts all ranks once.

        Returns:
            Their exit codes, the seconds between the first and the last end, and the seconds of the processor.
        """
        children = []
        for rank, env in enumerate(rank_environments(run.ranks)):
            before = partial(disturbance.in_child, folder) if disturbance.in_child and rank == 0 else None
            start = Start(run.command(folder), folder / f"log{rank}", folder, self.env | env, before=before)
            children.append(self.server.start(start))
        try:
            if disturbance.from_outside is not None:
                disturbance.from_outside(children)
            waited = _wait_for_all(children)
        finally:
            for child in children:
                child.kill_group()  # also worker processes of one that was killed
        codes = [child.wait(10.0) for child in children]
        return codes, waited, sum(child.processor_seconds for child in children)


def _wait_for_all(children: list[Child]) -> float:
    """Waits until all have ended; returns the seconds between the first and the last end."""
    began, first = time.monotonic(), None
    while any(child.poll() is None for child in children):
        now = time.monotonic()
        if first is None and any(child.poll() is not None for child in children):
            first = now
        if now - began > LONGEST_START or (first is not None and now - first > LONGEST_GRACE):
            break
        time.sleep(POLL_SECONDS)
    return 0.0 if first is None else time.monotonic() - first


def _broken_promises(disturbance: Disturbance, codes: list[int], steps: list[int], experiment: Path) -> list[str]:
    """Returns the broken guarantees of a run after a signal: its exit code, and a checkpoint of all finished steps."""
    found = []
    shell_codes = [128 - code if code < 0 else code for code in codes]
    if set(shell_codes) != {128 + disturbance.signal}:
        found.append(f"{disturbance.name}: exit codes {shell_codes} instead of {128 + disturbance.signal}")
    finished, saved = max(steps, default=-1) + 1, last_checkpoint_step(experiment)
    if saved < finished:
        found.append(f"{disturbance.name}: the checkpoint has {saved} of {finished} finished steps")
    return found


def message(log: Path) -> str:
    """Returns the line of a log that best explains why the run failed."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(birq \w+: |[\w.]*(Error|Exception|Interrupt)\b)", line)]
    lines = [line for line in lines if "HYDRA_FULL_ERROR" not in line]
    return (errors or lines or ["no output"])[-1][:300]


@contextlib.contextmanager
def _disk(folder: Path, size: int | None) -> Iterator[None]:
    """Mounts a small disk at the folder."""
    if size is None:
        yield
        return
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
