"""The storms of a run, derived from the file operations of an uninterrupted and of a resumed run."""

import os
import random
import re
import signal
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reliability import disturbances as do
from benchmarks.reliability.disturbances import DAMAGES
from benchmarks.reliability.file_operations import Operation, recorded
from benchmarks.reliability.runs import NAME, Run
from benchmarks.reliability.storms import Stage, Storm

MARKER = "-unfinished"
"""End of the name of NeMo's marker of a checkpoint that is being written or removed."""
STEP = re.compile(r"(?:step|epoch)=\d+")
MOST_ALIKE = 12
"""Most operations of a group that are all tested; of larger groups, such as writes to a log, only first, middle and last."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SHARES = (0.1, 0.5, 0.99)
"""Shares of a file that are written when the process is killed."""


@dataclass(frozen=True)
class Observed:
    """An uninterrupted run, and what a resumed one does."""

    run: Run
    outcome: dict[str, Any]
    seconds: float
    operations: list[Operation]
    nemo: Path
    """File that the run ended with."""
    sizes: dict[str, int]
    """Bytes of the files ``.ckpt`` and ``.nemo``."""

    @property
    def saves(self) -> list[list[int]]:
        """Numbers of the operations at which NeMo marks a checkpoint as unfinished before it writes it.

        For each validation one or two: that of the best checkpoint, where it has improved, and that of the last one.
        """
        first: dict[str, int] = {}
        for number, operation in enumerate(self.operations):
            if operation.kind == "open" and operation.paths[0].endswith(MARKER):
                first.setdefault(operation.paths[0], number)  # the second time it is removed
        steps = defaultdict(list)
        for path, number in first.items():
            steps[STEP.search(path)[0]].append(number)
        return list(steps.values())

    @property
    def end(self) -> int:
        """Number of the first operation on the .nemo."""
        return next(n for n, op in enumerate(self.operations) if any(".nemo" in path for path in op.paths))

    @property
    def middle(self) -> int:
        """Number of an operation between the second and the third checkpoint."""
        return self.saves[2][0] - 2


def observe(stage: Stage, run: Run) -> Observed:
    """Trains once without disturbance.

    Raises:
        RuntimeError: the run failed.
    """
    folder = stage.folder / f"{run.name}_whole".replace(" ", "_")
    record = folder.with_suffix(".operations")
    outcome, seconds = stage.uninterrupted(run, folder.name, do.record(record))
    files = list((folder / NAME / "checkpoints").iterdir())
    return Observed(
        run=run,
        outcome=outcome,
        seconds=seconds,
        operations=recorded(record),
        nemo=next(path for path in files if path.suffix == ".nemo"),
        sizes={path.suffix: path.stat().st_size for path in files},
    )


def observe_resumed(stage: Stage, seen: Observed) -> list[Operation]:
    """Returns the file operations of a start that resumes from the second checkpoint."""
    record = stage.folder / f"{seen.run.name}_resumed.operations".replace(" ", "_")
    stage.weather(Storm("resumed", seen.run, [do.kill_at(seen.middle), do.record(record)]), seen.outcome, record.stem)
    return recorded(record)


def plan(seen: Observed, resumed: list[Operation], seed: int, count: int) -> list[Storm]:
    """Returns the storms of a run: ``count`` random ones of a plain pretraining, fewer of others, and all other kinds.

    Args:
        seen: uninterrupted run.
        resumed: file operations of a start that goes on after the second checkpoint.
        seed: seed of the random moments.
        count: number of random storms.
    """
    draw = random.Random(f"{seed} {seen.run.name}")
    is_plain = seen.run.ranks == 1 and seen.run.is_exact and not seen.run.has_workers
    some = count if is_plain else -(-count // 5)
    storms = [*at_random(seen, draw, some), *signals(seen, draw, -(-some // 10)), *again(seen)]
    if not seen.run.has_workers:
        most_alike = MOST_ALIKE if is_plain else 1
        storms += [*aimed(seen, most_alike), *aimed_at_resumed(seen, resumed, most_alike), *inside(seen), *full_disk(seen)]
    return [*storms, *damage(seen)] if is_plain else storms


def aimed(seen: Observed, most_alike: int) -> Iterator[Storm]:
    """Yields a kill at each file operation of an uninterrupted run."""
    for number in chosen(seen.operations, most_alike):
        yield Storm("aimed", seen.run, [do.kill_at(number, seen.operations[number])])


def aimed_at_resumed(seen: Observed, resumed: list[Operation], most_alike: int) -> Iterator[Storm]:
    """Yields a kill at each file operation of a start that resumes after a kill."""
    for number in chosen(resumed, most_alike):
        yield Storm("aimed, resumed", seen.run, [_stop(seen), do.kill_at(number, resumed[number])])


def inside(seen: Observed) -> Iterator[Storm]:
    """Yields kills in the middle of a checkpoint and of the .nemo."""
    for number, suffix in places(seen):
        for share in SHARES:
            kill = do.kill_inside(number, int(share * seen.sizes[suffix]), seen.operations[number])
            yield Storm("inside a file", seen.run, [kill])


def full_disk(seen: Observed) -> Iterator[Storm]:
    """Yields errors of every write to a large file, and disks that are really full if mounting is allowed."""
    for number, suffix in places(seen):
        yield Storm("full disk", seen.run, [do.fill_disk(number, seen.sizes[suffix] // 2, seen.operations[number])])
    if can_mount():
        ckpt = seen.sizes[".ckpt"]
        for size in (8192, ckpt // 2, ckpt * 3 // 2, ckpt * 5 // 2, ckpt * 7 // 2):
            size = -(-size // 4096) * 4096
            yield Storm("full disk", seen.run, [do.Disturbance(f"disk of {size} bytes")], disk=size)


def damage(seen: Observed) -> Iterator[Storm]:
    """Yields damage to the newest checkpoint of a run that was killed."""
    for kind in DAMAGES:
        yield Storm("damage", seen.run, [do.damaged(_stop(seen), kind)])


def again(seen: Observed) -> Iterator[Storm]:
    """Yields the same command after the end."""
    yield Storm("again after the end", seen.run, [do.Disturbance()])


def signals(seen: Observed, draw: random.Random, rounds: int) -> Iterator[Storm]:
    """Yields signals at random moments, once and twice in a row, and in the middle of saving a checkpoint."""
    for number in SIGNALS:
        for place in (seen.middle, seen.saves[-1][-1] + 1, seen.end):
            yield Storm("signal", seen.run, [do.send_at(place, number)])
    for _ in range(rounds):
        for number in SIGNALS:
            for again_after in (None, draw.uniform(0.0, 0.3)):
                yield Storm("signal", seen.run, [do.send_after(draw.uniform(0.0, seen.seconds), number, again_after)])


def at_random(seen: Observed, draw: random.Random, count: int) -> Iterator[Storm]:
    """Yields one to five kills at random moments, of all ranks or of one of them."""
    for _ in range(count):
        kills = []
        for _ in range(draw.randint(1, 5)):
            rank = draw.choice([None, *range(seen.run.ranks)]) if seen.run.ranks > 1 else None
            kills.append(do.kill_after(draw.uniform(0.0, seen.seconds), rank))
        yield Storm("random", seen.run, kills)


def _stop(seen: Observed) -> do.Disturbance:
    return do.kill_at(seen.middle, "after the second checkpoint")


def chosen(operations: list[Operation], most_alike: int) -> list[int]:
    """Returns the operations to test; of more than ``most_alike`` similar ones, only first, middle and last, or the last."""
    groups = defaultdict(list)
    for number, operation in enumerate(operations):
        groups[operation.group].append(number)
    numbers = set()
    for group in groups.values():
        few = [group[-1]] if most_alike == 1 else [group[0], group[len(group) // 2], group[-1]]
        numbers |= set(group if len(group) <= most_alike else few)
    return sorted(numbers)


def places(seen: Observed) -> list[tuple[int, str]]:
    """Returns the operations after which a large file is written, with the suffix of that file."""
    return [*((number, ".ckpt") for numbers in seen.saves for number in numbers), (max(0, seen.end - 1), ".nemo")]


def can_mount() -> bool:
    """Tests if this process may mount a small disk."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", "size=4096", "tmpfs", folder]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return False
        subprocess.run(["umount", folder], check=True)
        return True
