"""Several runs at a time, with a table of what they are doing."""

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

from experiments import results
from experiments.execution import Interrupted, StageFailed, log_file, remove_checkpoints, run_stages
from experiments.stages import Run, Stage

STEP = re.compile(r"\bstep (\d+) \||Epoch (\d+):[^\r\n]*?\| *(\d+)/(\d+) \[")
LOG_END = 4000  # bytes of a log that are searched for the step


@dataclass
class Progress:
    """What a running job is doing."""

    run: Run
    folder: Path
    stage: Stage | None = None
    since: float = 0.0

    def begin(self, stage: Stage) -> None:
        self.stage, self.since = stage, time.monotonic()

    def row(self) -> tuple[str, str, str, str]:
        """Run, stage, step, time."""
        if self.stage is None:
            return self.run.setting.run_name, "", "", ""
        number = self.run.stages.index(self.stage) + 1
        seconds = int(time.monotonic() - self.since)
        step = step_of(log_file(self.folder, self.stage.name))
        steps = "" if not self.stage.steps else "starting" if step is None else f"step {step}/{self.stage.steps}"
        clock = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        return self.run.setting.run_name, f"{self.stage.name} ({number}/{len(self.run.stages)})", steps, clock


def step_of(log: Path) -> int | None:
    """The step that the end of a log tells of: of pretraining its log line, of fine-tuning Lightning's progress bar."""
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
    """Runs of a budget.

    Args:
        out: ``$OUT`` of each run is under it.
        results_folder: the json file of each run is under it.
        jobs: runs at a time.
        threads: of each.
        keep: the checkpoints, too.
        console: to write to.
    """

    def __init__(self, out: Path, results_folder: Path, jobs: int, threads: int, keep: bool, console: Console):
        self.out, self.results, self.jobs, self.threads, self.keep = out, results_folder, jobs, threads, keep
        self.console = console
        self.stop = threading.Event()
        self.running: dict[Run, Progress] = {}

    def execute(self, runs: list[Run]) -> list[Run]:
        """Gives the runs that failed; the others have their json file.

        Raises:
            KeyboardInterrupt: the user stopped; all commands have ended.
        """
        failed: list[Run] = []
        began = time.monotonic()
        with _sigterm_as_interrupt(), ThreadPoolExecutor(self.jobs) as pool, self._display():
            waiting = {pool.submit(self._one, run): run for run in runs}
            try:
                for future, run in _as_they_end(waiting):
                    if not self._report(future, run, began):
                        failed.append(run)
            except KeyboardInterrupt:
                self.console.print("Stopping; the same command goes on from here.")
                self.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return failed

    def _one(self, run: Run) -> Path:
        if self.stop.is_set():
            raise Interrupted
        folder = self.out / run.place
        progress = self.running[run] = Progress(run, folder)
        try:
            run_stages(run, folder, self.threads, self._announce(progress), self.stop)
            path = self.results / run.file
            results.write(results.collect(run, folder), path)
            if not self.keep:
                remove_checkpoints(folder)
            return path
        finally:
            del self.running[run]

    def _announce(self, progress: Progress) -> Callable[[Stage], None]:
        def begun(stage: Stage) -> None:
            progress.begin(stage)
            if not self.console.is_terminal:
                self.console.print(f"{progress.run.setting.run_name}: {stage.name}", highlight=False)

        return begun

    def _report(self, future: Future, run: Run, began: float) -> bool:
        minutes = (time.monotonic() - began) / 60
        try:
            path = future.result()
        except (StageFailed, ValueError, OSError) as error:
            self.console.print(f"[red]failed[/] {run.setting.run_name}")
            self.console.print(str(error), markup=False, highlight=False, soft_wrap=True)
            return False
        self.console.print(f"[green]done[/] {run.setting.run_name} after {minutes:.1f} min: {path}", soft_wrap=True)
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


def _as_they_end(waiting: dict[Future, Run]) -> Iterator[tuple[Future, Run]]:
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
