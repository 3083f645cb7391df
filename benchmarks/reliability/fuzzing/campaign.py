"""Runs cases: one file of a good input is damaged, the command runs, and its ending is classified."""

import random
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reliability.fuzzing.corruptions import Corruption
from benchmarks.reliability.fuzzing.good_files import GoodFiles
from benchmarks.reliability.fuzzing.kinds import Kind
from benchmarks.reliability.fuzzing.results import Result
from benchmarks.reliability.fuzzing.stage import Stage
from benchmarks.reliability.fuzzing.verdict import Expected, Verdict, judge
from benchmarks.reliability.outcome import differences

ABSENT = "the file may be absent"


@dataclass(frozen=True)
class Case:
    """The ending of one case."""

    kind: str
    number: int
    corruption: str
    file: str
    verdict: Verdict
    seconds: float


class Subject:
    """A kind of file whose good folder is made and whose good result is known.

    Args:
        kind: kind of file.
        good: source of the inputs.
        stage: runner of the commands.

    Raises:
        RuntimeError: the command fails with good files.
    """

    def __init__(self, kind: Kind, good: GoodFiles, stage: Stage):
        self.kind, self.stage = kind, stage
        place = stage.folder / "cases" / re.sub(r"\W+", "_", kind.name)
        self.folder, self.template = place / "case", place / "template"  # the index names absolute paths
        self.folder.mkdir(parents=True)
        for path, source in kind.inputs.items():
            _copy(good.get(source), self.folder / path)
        for arguments in kind.before:
            stage.succeed(arguments, self.folder)
        shutil.copytree(self.folder, self.template, symlinks=True)
        ended = stage.succeed(kind.arguments, self.folder, entry=kind.entry)
        self.expected: Result = kind.read(self.folder)
        self.output = f"{ended.output}\n{ended.errors}"
        self.timeout = 30 + 20 * ended.seconds

    def run(self, number: int, seed: int) -> Case:
        """Runs one case; its folder stays until the next one."""
        rng = random.Random(f"{seed} {self.kind.name} {number}")
        shutil.rmtree(self.folder)
        shutil.copytree(self.template, self.folder, symlinks=True)
        corruption = _corruption(self.kind.corruptions, number, f"{seed} {self.kind.name}")
        target = rng.choice(sorted(path for pattern in self.kind.damaged for path in self.folder.glob(pattern)))
        relative = str(target.relative_to(self.folder))
        good = self.template / relative
        corruption.apply(target, rng)
        rule = self._rule(good, target)
        ended = self.stage.run(self.kind.arguments, self.folder, self.timeout, self.kind.entry)
        changes = self._changes() if ended.code == 0 else None
        names = [target.name, relative, *self._names(good, target)]
        verdict = judge(ended, changes, rule, Expected(self.output, names))
        return Case(self.kind.name, number, corruption.name, relative, verdict, ended.seconds)

    def _names(self, good: Path, bad: Path) -> list[str]:
        try:
            return self.kind.names(good, bad)
        except OSError:  # there is nothing to read, or a folder
            return []

    def _rule(self, good: Path, bad: Path) -> str | None:
        """Returns the reason why the damage cannot be detected; None if it can."""
        if self.kind.is_optional and not bad.exists():
            return ABSENT
        try:
            return self.kind.rule(good, bad)
        except Exception:  # what no rule can read is no valid file
            return None

    def _changes(self) -> list[str]:
        try:
            return differences(self.kind.read(self.folder), self.expected)
        except Exception as error:
            return [f"what the command wrote is no result: {type(error).__name__}: {error}"]


def _corruption(corruptions: Sequence[Corruption], number: int, seed: str) -> Corruption:
    """Returns a corruption; all are used repeatedly, in an order that depends on the seed."""
    order = list(corruptions)
    random.Random(seed).shuffle(order)
    return order[number % len(order)]


def divide(count: int, kinds: Sequence[Kind]) -> list[int]:
    """Divides a number of cases over kinds by their shares."""
    total, done, given = sum(kind.share for kind in kinds), 0, []
    shares = 0
    for kind in kinds:
        shares += kind.share
        given.append(count * shares // total - done)
        done += given[-1]
    return given


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def campaign(stage: Stage, plan: Sequence[tuple[Kind, Sequence[int]]], seed: int) -> Iterator[Case | Kind]:
    """Yields each kind when its good result is known, and then its cases."""
    good = GoodFiles(stage)
    for kind, numbers in plan:
        if numbers:
            subject = Subject(kind, good, stage)
            yield kind
            for number in numbers:
                yield subject.run(number, seed)
