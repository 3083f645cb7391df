"""Execution of one run: its unfinished commands in order, with their time and memory."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from experiments.budgets import ROOT
from experiments.corpora import write_labelled
from experiments.stages import RunPlan, Stage, fill_in
from nemo_birq.utils.files import write_json

GRACE_SECONDS = 20.0  # an interrupted command has this long to end by itself
POLL_SECONDS = 0.2
TAIL_LINES = 25  # of the log of a failed command


class StageFailed(Exception):
    """A command ended with an error; the text has the end of its log."""


class Interrupted(Exception):
    """The user stopped the runs."""


@dataclass
class StageCost:
    """Time and memory of a stage over all attempts, including the processes that it started."""

    command: str = ""
    done: bool = False
    seconds: float = 0.0
    processor_seconds: float = 0.0
    peak_memory_gb: float = 0.0
    """10^9 bytes, resident, of the command's own process."""


def cost_file(folder: Path, stage: str) -> Path:
    """Returns the file with the cost of a stage, given the folder of its run."""
    return folder / "stages" / f"{stage}.json"


def read_cost(folder: Path, stage: str) -> StageCost:
    """Reads the cost of a stage; zeros if the stage has never started."""
    path = cost_file(folder, stage)
    return StageCost(**_read_json(path)) if path.is_file() else StageCost()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove the folder of this run and start again") from error


def is_done(folder: Path, stage: Stage) -> bool:
    """Returns True if a stage has finished and its result still exists."""
    return read_cost(folder, stage.name).done and (folder / stage.result).is_file()


def log_file(folder: Path, stage: str) -> Path:
    """Returns the file with the output of a command, given the folder of its run."""
    return folder / "logs" / f"{stage}.log"


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keeps other processes away from the folder of a run.

    Raises:
        ValueError: another process works there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"another process is working in {folder}; wait for it, or give another --out") from error
    try:
        yield
    finally:
        lock.release()


def prepare_folder(run: RunPlan, folder: Path, overwrite: bool) -> None:
    """Creates the folder of a run with its setting, or checks that an existing one has the same setting.

    Raises:
        ValueError: the folder has another setting, is not that of a run, or is damaged.
    """
    path = folder / "setting.json"
    if path.is_file() and _read_json(path)["hash"] != run.setting_hash:
        if not overwrite:
            raise ValueError(
                f"{folder} holds a run with another setting (see its setting.json); give another --out, or --overwrite to "
                "delete it and start again"
            )
        shutil.rmtree(folder)
    if not path.is_file() and folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no run of this script; give another --out")
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (folder / "stages").mkdir(exist_ok=True)
    setting = {"hash": run.setting_hash, "commands": run.commands, "config": run.config}
    write_json(path, setting | {"finetune_config": run.finetune_config})
    if run.finetune_config is not None:
        write_labelled(run.corpus.labelled, folder)


def run_stages(run: RunPlan, folder: Path, threads: int, on_begin: Callable[[Stage], None], stop: threading.Event) -> None:
    """Runs the unfinished stages of a run.

    Args:
        run: a run whose folder ``prepare_folder`` has made.
        folder: ``$OUT``.
        threads: OMP_NUM_THREADS of each command.
        on_begin: called with each stage before it starts.
        stop: event that ends the running command and this call.

    Raises:
        StageFailed: a command failed, or did not write its result.
        Interrupted: ``stop`` was set.
    """
    for stage in run.stages:
        if is_done(folder, stage):
            continue
        on_begin(stage)
        if not stage.resumes:
            shutil.rmtree(folder / stage.name, ignore_errors=True)
            (folder / stage.result).unlink(missing_ok=True)  # left by a command that was ended after it had written this
        _run_stage(stage, run, folder, threads, stop)


def _run_stage(stage: Stage, run: RunPlan, folder: Path, threads: int, stop: threading.Event) -> None:
    cost, log = read_cost(folder, stage.name), log_file(folder, stage.name)
    if not stage.resumes or cost.done:
        cost = StageCost()
    cost.command, cost.done = stage.line, False
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads), "WANDB_MODE": "disabled", "PYTHONUNBUFFERED": "1", "COLUMNS": "120",
    }  # fmt: skip
    arguments = [fill_in(argument, run.corpus.folder, folder) for argument in stage.arguments]
    began = time.monotonic()
    with log.open("a" if stage.resumes else "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=ROOT,
            start_new_session=True,  # Ctrl-C reaches this program only, which then ends the commands in order
        )  # fmt: skip
    usage, memory = _wait(process, stop)
    cost.seconds += time.monotonic() - began
    cost.processor_seconds += usage.ru_utime + usage.ru_stime
    cost.peak_memory_gb = max(cost.peak_memory_gb, memory / 1e9)
    cost.done = process.returncode == 0 and (folder / stage.result).is_file()
    write_json(cost_file(folder, stage.name), asdict(cost))
    if stop.is_set() and not cost.done:
        raise Interrupted
    if not cost.done:
        problem = f"ended with exit code {process.returncode}"
        if process.returncode == 0:
            problem = f"wrote no {stage.result}; remove {folder / stage.name} and start again"
        raise StageFailed(f"{run.name}: {stage.script} {problem}. The end of {log}:\n{log_tail(log)}")


def _wait(process: subprocess.Popen, stop: threading.Event) -> tuple[resource.struct_rusage, float]:
    """Waits until a process ends, and ends it when ``stop`` is set.

    Returns:
        resource usage, and the largest resident memory in bytes.
    """
    deadline, memory = None, 0.0
    while True:
        memory = _peak_resident(process.pid) or memory
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            unit = 1 if sys.platform == "darwin" else 1024
            return usage, memory or usage.ru_maxrss * unit
        if stop.is_set() and deadline is None:
            os.killpg(process.pid, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_SECONDS
        elif deadline is not None and time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(POLL_SECONDS)


def _peak_resident(pid: int) -> float | None:
    """Returns the largest resident memory of a process so far in bytes; None without /proc.

    ``ru_maxrss`` on Linux would include the memory of this program at the fork.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return 1024.0 * int(found[1]) if found else None


def log_tail(log: Path, lines: int = TAIL_LINES) -> str:
    """Returns the last lines of a log, and of a progress bar its last state."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return "\n".join(line.rpartition("\r")[2] for line in text.splitlines()[-lines:])


def remove_checkpoints(folder: Path) -> None:
    """Deletes the checkpoints of a run whose result is written; the ``.nemo`` files stay."""
    for path in folder.rglob("*.ckpt"):
        path.unlink()
