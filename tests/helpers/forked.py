"""Runs commands as a user does, in processes of their own that need not import NeMo: they are forked from one that has."""

import os
import subprocess
import tempfile
from pathlib import Path

from benchmarks.reliability.fork_server import ForkServer, Start
from tests.helpers.paths import ROOT

SERVER = ForkServer()
"""Forked while conftest.py is imported: before a test has computed anything, patched a module or set a variable."""
LONGEST = 300.0


def run_forked(arguments: list[str], entry: str = "nemo_birq.cli:main", folder: Path = ROOT) -> subprocess.CompletedProcess:
    """Runs the entry point of a command in a forked process; the result is that of ``subprocess.run`` with captured text.

    Args:
        arguments: name of the program and its arguments.
        entry: function that is called, ``module:name``.
        folder: working directory.
    """
    with tempfile.TemporaryDirectory() as logs:
        files = Path(logs, "output"), Path(logs, "errors")
        env = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
        child = SERVER.start(Start(arguments, files[0], folder, env, errors=files[1], entry=entry))
        try:
            code = child.wait(LONGEST)
        finally:
            child.kill_group()
        output, errors = (file.read_text(encoding="utf-8", errors="replace") for file in files)
    return subprocess.CompletedProcess(arguments, code, output, errors)
