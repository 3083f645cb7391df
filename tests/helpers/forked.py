"""Runs commands like a user, in separate processes that are forked from one that has imported NeMo.

A forked process differs from a new one in its imported modules. One test of each family of scripts starts a new one.
"""

import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.reliability.fork_server import ForkServer, Start
from tests.helpers.paths import ROOT

MAX_SECONDS = 300.0


def run_forked(
    arguments: Sequence[str],
    entry: str = "nemo_birq.cli:main",
    folder: Path = ROOT,
    env: Sequence[Mapping[str, str]] = ({},),
) -> subprocess.CompletedProcess:
    """Runs the entry point of a command in a forked process for each ``env``.

    Args:
        arguments: name of the program and its arguments.
        entry: function that is called, ``module:name``.
        folder: working directory.
        env: additions to the environment, one for each rank.

    Returns:
        As ``subprocess.run`` with captured text: the output of all ranks, and the exit code of the first that failed.
    """
    with tempfile.TemporaryDirectory() as logs:
        files = Path(logs, "output"), Path(logs, "errors")
        shared = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
        starts = [Start(arguments, files[0], folder, shared | own, errors=files[1], entry=entry) for own in env]
        children = [SERVER.start(start) for start in starts]
        try:
            codes = [child.wait(MAX_SECONDS) for child in children]
        finally:
            for child in children:
                child.kill_group()
        output, errors = (file.read_text(encoding="utf-8", errors="replace") for file in files)
    return subprocess.CompletedProcess(arguments, next(filter(None, codes), 0), output, errors)


def run_file() -> None:
    """Runs the file that the first argument of the process names, as the interpreter does: an entry point."""
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")


SERVER = ForkServer()
"""Forked while conftest.py is imported: before a test has computed anything, patched a module or set a variable."""
