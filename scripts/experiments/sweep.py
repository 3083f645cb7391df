"""Execution of several runs at a time, with a table of their progress."""

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from experiments import results
from experiments.execution import Interrupted, StageFailed, log_file, remove_checkpoints, run_stages
from experiments.stages import RunPlan, Stage

STEP = re.compile(r"\bstep (\d+) \||Epoch (\d+):[^\r\n]*?\| *(\d+)/(\d+) \[")
LOG_END = 4000  # bytes of a log that are searched for the step


@dataclass
class Progress:
    """State of a run in progress."""

    run: RunPlan
    folder: Path
    stage: Stage | None = None
    since: float = 0.0

    def begin(self, stage: Stage) -> None:
        self.stage, self.since = stage, time.monotonic()

    def row(self) -> tuple[str, str, str, str]:
        """Returns run, stage, step and time."""
        if self.stage is None:
            return self.run.name, "", "", ""
        number = self.run.stages.index(self.stage) + 1
        seconds = int(time.monotonic() - self.since)
        step = last_step(log_file(self.folder, self.stage.name))
        steps = "" if not self.stage.steps else "starting" if step is None else f"step {step}/{self.stage.steps}"
        clock = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        return self.run.name, f"{self.stage.name} ({number}/{len(self.run.stages)})", steps, clock


def last_step(log: Path) -> int | None:
    """Reads the last step in a log: of pretraining from its log line, of fine-tuning from Lightning's progress bar."""
    if not log.is_file():
        return None
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_END))
        found = list(STEP.finditer(file.read().decode(errors="replace")))
    if not found:
        return None
    logged, epoch, batch, total = found[-1].groups()
    return int(logged) + 1 if logged else int(epoch) * int(total) + int(batch)


class Sweep:
    """Execution of the runs of a budget.

    Args:
        out: parent of the folders of the runs.
        results_folder: parent of the json files of the runs.
        jobs: number of runs at a time.
        threads: threads of each run.
        keep: True: the checkpoints stay.
        console: output for the user.
    """

    def __init__(self, out: Path, results_folder: Path, jobs: int, threads: int, keep: bool, console: Console):
        self.out, self.results, self.jobs, self.threads, self.keep = out, results_folder, jobs, threads, keep
        self.console = console
        self.stop = threading.Event()
        self.running: dict[RunPlan, Progress] = {}

    def execute(self, runs: list[RunPlan]) -> list[RunPlan]:
        """Executes runs, writes the json file of each that succeeds, and returns those that failed.

        Raises:
            KeyboardInterrupt: the user stopped; all commands have ended.
        """
        failed: list[RunPlan] = []
        began = time.monotonic()
        with _sigterm_as_interrupt(), ThreadPoolExecutor(self.jobs) as pool, self._display():
            waiting = {pool.submit(self._one, run): run for run in runs}
            try:
                for future, run in _as_they_end(waiting):
                    if not self._report(future, run, began):
                        failed.append(run)
            except KeyboardInterrupt:
                self.console.print("Stopping; the same command continues from here.")
                self.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return failed

    def _one(self, run: RunPlan) -> Path:
        if self.stop.is_set():
            raise Interrupted
        folder = self.out / run.folder
        progress = self.running[run] = Progress(run, folder)
        try:
            run_stages(run, folder, self.threads, self._announce(progress), self.stop)
            path = self.results / run.result_file
            results.write(results.collect(run, folder), path)
            if not self.keep:
                remove_checkpoints(folder)
            return path
        finally:
            del self.running[run]

    def _announce(self, progress: Progress) -> Callable[[Stage], None]:
        def on_begin(stage: Stage) -> None:
            progress.begin(stage)
            if not self.console.is_terminal:
                self.console.print(f"{progress.run.name}: {stage.name}")

        return on_begin

    def _report(self, future: Future, run: RunPlan, began: float) -> bool:
        minutes = (time.monotonic() - began) / 60
        try:
            path = future.result()
        except (StageFailed, ValueError, OSError) as error:
            self.console.print(Text.assemble(("failed", "red"), f" {run.name}"))
            self.console.print(str(error), soft_wrap=True)
            return False
        done = Text.assemble(("done", "green"), f" {run.name} after {minutes:.1f} min: {path}")
        self.console.print(done, soft_wrap=True)
        return True

    @contextmanager
    def _display(self) -> Iterator[None]:
        if not self.console.is_terminal:
            yield
            return
        with Live(get_renderable=self._table, console=self.console, refresh_per_second=1, transient=True):
            yield

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for column in ("running", "stage", "", "time"):
            table.add_column(column, min_width=8)
        for progress in list(self.running.values()):
            table.add_row(*progress.row())
        return table


def _as_they_end(waiting: dict[Future, RunPlan]) -> Iterator[tuple[Future, RunPlan]]:
    left = set(waiting)
    while left:
        ended, left = wait(left, timeout=1, return_when=FIRST_COMPLETED)
        yield from ((future, waiting[future]) for future in ended)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
