"""Damages every kind of file that nemo_birq reads, runs the command that reads it, and classifies how the commands end.

make fuzz                                                             # CASES=1000 SEED=0
python -m benchmarks.reliability.fuzz --kind "CTM, label-quality" --case 17 --folder /tmp/fuzz
"""

import shlex
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.reliability.fork_server import ForkServer

if TYPE_CHECKING:  # the server is forked before anything else is imported
    from benchmarks.reliability.fuzzing.campaign import Case
    from benchmarks.reliability.fuzzing.kinds import Kind
    from benchmarks.reliability.fuzzing.stage import Stage

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = (
    TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
)  # fmt: skip
MOST_CHARACTERS = 400
"""Characters of a message that are kept."""
console = Console()


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 120})
@click.option("--cases", default=1000, help="Number of cases, over all kinds.")
@click.option("--seed", default=0, help="Seed of the corruptions.")
@click.option("--kind", "names", multiple=True, help="Kind of file, or a part of its name; default: all.")
@click.option("--case", "number", type=int, help="Run only this case of each kind.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="New folder of the cases, which is kept; default: a temporary one."
)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for the counts.")
@click.option("--list", "only_list", is_flag=True, help="List the kinds and their numbers of cases.")
def main(
    cases: int, seed: int, names: Sequence[str], number: int | None, folder: Path | None, out: Path | None, only_list: bool
) -> None:
    """Damages every kind of file that nemo_birq reads, runs the command that reads it, and classifies how the commands end.

    Each case copies good inputs, damages one file, and runs the command of a user in a separate process, with limits of
    time and memory. The exit code is 1 if a case ends with a traceback, an error without the name of the file, an abort, a
    hang or a huge allocation, or if the damage is not reported. The same seed gives the same cases.
    """
    began = time.monotonic()
    with ForkServer() as server, tempfile.TemporaryDirectory() as own:
        from benchmarks.reliability.fuzzing.campaign import divide
        from benchmarks.reliability.fuzzing.kinds import KINDS
        from benchmarks.reliability.fuzzing.stage import Stage

        kinds = [kind for kind in KINDS if not names or any(name in kind.name for name in names)]
        if not kinds:
            raise click.UsageError(f"no kind has {' or '.join(names)} in its name; --list shows them")
        plan = list(zip(kinds, divide(cases, kinds), strict=True))
        if only_list:
            for kind, count in plan:
                console.print(f"{count:4} {kind.name}", highlight=False)
            return
        with console.status("importing NeMo"):
            server.wait_until_ready()
        stage = Stage(server, (folder or Path(own)).resolve())
        numbered = [(kind, range(count) if number is None else [number]) for kind, count in plan]
        found = _run(stage, numbered, seed, show_all=number is not None)
    from benchmarks.reliability.fuzzing.verdict import FORBIDDEN

    bad = [case for case in found if case.verdict.name in FORBIDDEN]
    console.print(_table(found))
    seconds = round(time.monotonic() - began)
    console.print(f"{len(found)} cases in {seconds} s, {len(bad)} of a class that must not occur.", highlight=False)
    if out:
        _write(out, found, bad, seed, seconds)
    sys.exit(1 if bad else 0)


def _run(stage: "Stage", plan: "Sequence[tuple[Kind, Sequence[int]]]", seed: int, show_all: bool) -> "list[Case]":
    """Runs the cases, and prints those that must not end so when they occur."""
    from benchmarks.reliability.fuzzing.campaign import Case, campaign
    from benchmarks.reliability.fuzzing.verdict import FORBIDDEN

    found: list[Case] = []
    bad = 0
    with Progress(*COLUMNS, console=console, transient=True) as bars:
        task = bars.add_task("making good files", total=sum(len(numbers) for _, numbers in plan))
        for one in campaign(stage, plan, seed):
            if isinstance(one, Case):
                found.append(one)
                bars.advance(task)
                bad += one.verdict.name in FORBIDDEN
                if show_all or one.verdict.name in FORBIDDEN:
                    bars.print(_described(one), markup=False, highlight=False, soft_wrap=True)
            bars.update(task, description=f"{one.kind if isinstance(one, Case) else one.name}, {bad} bad so far")
    return found


def _described(case: "Case") -> str:
    """Returns a case in two lines."""
    why = case.verdict.why.strip()[-MOST_CHARACTERS:].replace("\n", "\n    ")
    return f"{case.verdict.name.upper()}: {case.kind}, case {case.number}: {case.corruption} in {case.file}\n    {why}"


def _counts(cases: "list[Case]") -> dict[str, Counter]:
    found: dict[str, Counter] = defaultdict(Counter)
    for case in cases:
        found[case.kind][case.verdict.name] += 1
    return found


def _table(cases: "list[Case]") -> Table:
    from benchmarks.reliability.fuzzing.verdict import CLASSES, FORBIDDEN

    table = Table(title="Endings of commands with one damaged file", header_style="bold")
    table.add_column("file, command")
    for name in CLASSES:
        table.add_column(name, justify="right", style="red" if name in FORBIDDEN else None)
    counts = _counts(cases)
    for kind, classes in counts.items():
        table.add_row(kind, *(str(classes[name] or "") for name in CLASSES))
    table.add_section()
    table.add_row("all", *(str(sum(classes[name] for classes in counts.values())) for name in CLASSES))
    return table


def _write(path: Path, cases: "list[Case]", bad: "list[Case]", seed: int, seconds: int) -> None:
    from benchmarks.reliability.fuzzing.verdict import CLASSES, UNDETECTABLE
    from nemo_birq.utils.files import write_json

    counts, total = _counts(cases), Counter(case.verdict.name for case in cases)
    rules = Counter(case.verdict.why for case in cases if case.verdict.name == UNDETECTABLE)
    write_json(path, {
        "command": shlex.join(["python", "-m", "benchmarks.reliability.fuzz", *sys.argv[1:]]),
        "seed": seed,
        "cases": len(cases),
        "seconds": seconds,
        "classes": {name: total[name] for name in CLASSES},
        "kinds": {kind: {name: classes[name] for name in CLASSES if classes[name]} for kind, classes in counts.items()},
        "rules": dict(rules.most_common()),
        "forbidden": [_described(case) for case in bad],
    })  # fmt: skip


if __name__ == "__main__":
    main()
