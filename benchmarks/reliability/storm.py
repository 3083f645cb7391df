"""The command behind ``make storm``: the storms of all runs, with a table and a file of results.

make storm                          # STORMS=50 SEED=0 JOBS=2
python -m benchmarks.reliability.storm --storms 10 --kind aimed --run pretraining
"""

import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.reliability.fork_server import ForkServer

if TYPE_CHECKING:  # the server is forked before anything else is imported
    from benchmarks.reliability.plans import Observed
    from benchmarks.reliability.storms import Result, Stage

ROOT = Path(__file__).resolve().parents[2]
RUNS = ("pretraining", "2 workers", "2 ranks", "fine-tuning")
OTHER_DISK = Path("/dev/shm")
"""For temporary files of the runs: from there a file cannot be renamed into the experiment, only copied."""
COLUMNS = (
    TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
)  # fmt: skip
console = Console()


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 120})
@click.option("--storms", default=50, help="Random storms of a plain pretraining; other runs get a fifth of them.")
@click.option("--seed", default=0, help="Seed of the random moments.")
@click.option("--jobs", default=2, help="Number of storms at a time.")
@click.option("--run", "runs", multiple=True, type=click.Choice(RUNS), help="Run to disturb; default: all.")
@click.option("--kind", "kinds", multiple=True, help="Kind of storms, as in the table at the end; default: all.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="New folder of the runs, which is kept; default: a temporary one."
)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "docs/results/reliability.json", help="Results.")
def main(
    storms: int, seed: int, jobs: int, runs: Sequence[str], kinds: Sequence[str], folder: Path | None, out: Path
) -> None:
    """Kills tiny training runs at random moments and at each of their file operations, and restarts them until they end.

    Each start is the command of a user, and each kill is real. A storm succeeds if the run ends without intervention and
    its results equal those of an uninterrupted run bit for bit: weights, labels, optimizer, alarms, metrics, model card and
    .nemo. After fine-tuning, whose data have a new order at each start, only the files are compared. The exit code is 1 if
    a storm failed.
    """
    began = time.monotonic()
    with (
        ForkServer() as server,
        tempfile.TemporaryDirectory() as own,
        tempfile.TemporaryDirectory(dir=OTHER_DISK if OTHER_DISK.is_dir() else None) as temporary,
    ):
        from benchmarks.reliability.storms import Stage
        from benchmarks.reliability.summary import failure, summary_table, write_results

        with console.status("importing NeMo"):
            stage = Stage(server, (folder or Path(own)).resolve(), Path(temporary))
        results = _all_storms(stage, storms, seed, jobs, runs or RUNS, kinds)
    failed = [result for result in results if not result.is_well]
    for result in failed:
        console.print(failure(result), markup=False, highlight=False)
    console.print(summary_table(results))
    seconds = round(time.monotonic() - began)
    command = shlex.join(["python", "-m", "benchmarks.reliability.storm", *sys.argv[1:]])
    write_results(out, results, command, seed, seconds)
    console.print(f"{len(results)} storms in {seconds} s, {len(failed)} failed. {out}", soft_wrap=True)
    sys.exit(1 if failed else 0)


def _all_storms(
    stage: "Stage", count: int, seed: int, jobs: int, runs: Sequence[str], kinds: Sequence[str]
) -> "list[Result]":
    """Observes the runs, then goes through their storms, several at a time."""
    from benchmarks.reliability.plans import observe_resumed, plan

    with Progress(*COLUMNS, console=console) as bars, ThreadPoolExecutor(jobs) as pool:
        task = bars.add_task("uninterrupted runs", total=len(runs))
        planned = []
        for seen in _observe_all(stage, runs):
            storms = plan(seen, observe_resumed(stage, seen), seed, count)
            planned += [(storm, seen) for storm in storms if not kinds or storm.kind in kinds]
            bars.advance(task)
        task, results = bars.add_task("storms", total=len(planned)), []
        waiting = [
            pool.submit(stage.weather, storm, seen.outcome, f"storm{number}") for number, (storm, seen) in enumerate(planned)
        ]
        for done in as_completed(waiting):
            results.append(done.result())
            failed = sum(not result.is_well for result in results)
            bars.update(task, advance=1, description=f"storms, {failed} failed")
    return results


def _observe_all(stage: "Stage", names: Sequence[str]) -> "Iterator[Observed]":
    from benchmarks.reliability import runs
    from benchmarks.reliability.plans import observe

    first = observe(stage, runs.pretraining())  # its .nemo is fine-tuned
    made = {
        "2 workers": runs.pretraining_with_workers, "2 ranks": runs.pretraining_on_two_ranks,
        "fine-tuning": lambda: runs.finetuning(first.nemo),
    }  # fmt: skip
    for name in names:
        yield first if name == first.run.name else observe(stage, made[name]())


if __name__ == "__main__":
    main()
