"""Runs the commands of one run that are not done yet, one after the other, and keeps account of time and memory."""

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
from experiments.stages import Run, Stage, fill_in
from nemo_birq.utils.files import write_json

PATIENCE = 20.0  # seconds that an interrupted command has to end by itself
TAIL = 25  # lines of a log that are shown when its command failed


class StageFailed(Exception):
    """A command ended with an error; the text has the end of its log."""


class Interrupted(Exception):
    """The user stopped the runs."""


@dataclass
class Account:
    """What a stage has cost so far, over all attempts, with the processes that it started."""

    command: str = ""
    done: bool = False
    seconds: float = 0.0
    processor_seconds: float = 0.0
    peak_memory_gb: float = 0.0
    """10^9 bytes, resident, of the command itself."""


def account_file(folder: Path, stage: str) -> Path:
    """Where the account of a stage lies in the folder of a run."""
    return folder / "stages" / f"{stage}.json"


def read_account(folder: Path, stage: str) -> Account:
    """An empty one where the stage was never begun."""
    path = account_file(folder, stage)
    return Account(**_read_json(path)) if path.is_file() else Account()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove the folder of this run and start again") from error


def is_done(folder: Path, stage: Stage) -> bool:
    """Whether a stage is finished and its result is still there."""
    return read_account(folder, stage.name).done and (folder / stage.result).is_file()


def log_file(folder: Path, stage: str) -> Path:
    """What a command printed."""
    return folder / "logs" / f"{stage}.log"


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Keeps other processes away from the folder of a run.

    Raises:
        ValueError: another one is at work there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"another process is at work in {folder}; wait for it, or give another --out") from error
    try:
        yield
    finally:
        lock.release()


def prepare_folder(run: Run, folder: Path, overwrite: bool) -> None:
    """Makes the folder of a run, with its setting, or sees to it that it is of this setting.

    Raises:
        ValueError: what lies there was made with another setting, by something else, or is damaged.
    """
    path = folder / "setting.json"
    if path.is_file() and _read_json(path)["hash"] != run.setting_hash:
        if not overwrite:
            raise ValueError(
                f"{folder} holds a run with another setting (its setting.json says which); give another --out, or "
                "--overwrite to begin it anew"
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


def run_stages(run: Run, folder: Path, threads: int, begun: Callable[[Stage], None], stop: threading.Event) -> None:
    """Runs what is not done yet.

    Args:
        run: whose folder ``prepare_folder`` has made.
        folder: ``$OUT``.
        threads: OMP_NUM_THREADS of each command.
        begun: told of each stage that begins.
        stop: set to end the running command and return.

    Raises:
        StageFailed: a command failed, or did not write its result.
        Interrupted: ``stop`` was set.
    """
    for stage in run.stages:
        if is_done(folder, stage):
            continue
        begun(stage)
        if not stage.resumes:
            shutil.rmtree(folder / stage.name, ignore_errors=True)
            (folder / stage.result).unlink(missing_ok=True)  # of a command that was ended after it had written this
        _run_stage(stage, run, folder, threads, stop)


def _run_stage(stage: Stage, run: Run, folder: Path, threads: int, stop: threading.Event) -> None:
    account, log = read_account(folder, stage.name), log_file(folder, stage.name)
    if not stage.resumes or account.done:
        account = Account()
    account.command, account.done = stage.line, False
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads), "WANDB_MODE": "disabled", "PYTHONUNBUFFERED": "1", "COLUMNS": "120",
    }  # fmt: skip
    arguments = [fill_in(argument, run.corpus.folder, folder) for argument in stage.arguments]
    began = time.monotonic()
    with log.open("a" if stage.resumes else "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=ROOT,
            start_new_session=True,  # so that Ctrl-C reaches this program alone, which ends the commands in order
        )  # fmt: skip
    usage, memory = _wait(process, stop)
    account.seconds += time.monotonic() - began
    account.processor_seconds += usage.ru_utime + usage.ru_stime
    account.peak_memory_gb = max(account.peak_memory_gb, memory / 1e9)
    account.done = process.returncode == 0 and (folder / stage.result).is_file()
    write_json(account_file(folder, stage.name), asdict(account))
    if stop.is_set() and not account.done:
        raise Interrupted
    if not account.done:
        problem = f"ended with exit code {process.returncode}"
        if process.returncode == 0:
            problem = f"wrote no {stage.result}; remove {folder / stage.name} and start again"
        raise StageFailed(f"{run.setting.run_name}: {stage.script} {problem}. The end of {log}:\n{log_tail(log)}")


def _wait(process: subprocess.Popen, stop: threading.Event) -> tuple[resource.struct_rusage, float]:
    """Until a process ends: what it used, and its largest resident memory in bytes. Ends it when ``stop`` is set."""
    told, memory = None, 0.0
    while True:
        memory = _resident_peak(process.pid) or memory
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            unit = 1 if sys.platform == "darwin" else 1024
            return usage, memory or usage.ru_maxrss * unit
        if stop.is_set() and told is None:
            os.killpg(process.pid, signal.SIGTERM)
            told = time.monotonic()
        elif told is not None and time.monotonic() - told > PATIENCE:
            os.killpg(process.pid, signal.SIGKILL)
            told = float("inf")
        time.sleep(0.2)


def _resident_peak(pid: int) -> float | None:
    """So far, in bytes; None where it cannot be known. Linux' ru_maxrss would count what this program had when it forked."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return 1024.0 * int(found[1]) if found else None


def log_tail(log: Path, lines: int = TAIL) -> str:
    """The last lines of a log; of a progress bar its last state."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return "\n".join(line.rpartition("\r")[2] for line in text.splitlines()[-lines:])


def remove_checkpoints(folder: Path) -> None:
    """Deletes the checkpoints of a run whose result is written; the ``.nemo`` files stay."""
    for path in folder.rglob("*.ckpt"):
        path.unlink()
