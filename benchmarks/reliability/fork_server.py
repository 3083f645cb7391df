"""A process that has imported everything and forks a child for each start of a command, so that NeMo is imported once.

A child is a separate process in its own session, with its output in a file, so SIGKILL to it is real. It runs the function
that the console script ``birq`` runs, with the same arguments. The server is a separate process that is forked before its
owner has computed anything or started a thread, so children begin like a new process.
"""

import atexit
import contextlib
import gc
import logging
import multiprocessing.util
import os
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pickle import dumps, loads
from typing import Any

PRELOADED = (
    "nemo.collections.asr.models", "nemo.utils.exp_manager", "nemo.core.config", "tensorboard.backend.event_processing",
    "torch.utils.tensorboard", "nemo_birq.model", "nemo_birq.pretraining.command", "nemo_birq.finetuning.command",
    "nemo_birq.finetuning.training", "nemo_birq.finetuning.preparation", "nemo_birq.scoring.results",
    "nemo_birq.scoring.tables", "nemo_birq.cli",
)  # fmt: skip
POLL_SECONDS = 0.005


@dataclass(frozen=True)
class Start:
    """One start of a command."""

    arguments: Sequence[str]
    """Arguments as in a shell, with the name of the program first."""
    log: Path
    """File to which its output is appended."""
    folder: Path
    """Working directory."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables that are added to the environment of the server."""
    errors: Path | None = None
    """File for the standard error output; None: ``log``."""
    entry: str = "nemo_birq.cli:main"
    """Function that is called without arguments, like an entry point of a package."""
    before: Callable[[], None] | None = None
    """Function that is called in the child before the entry point; it must be picklable."""


class Child:
    """A started process. Its process id is also the id of its session and process group."""

    def __init__(self, server: "ForkServer", pid: int):
        self._server, self.pid = server, pid
        self.returncode: int | None = None
        """Exit status as in ``subprocess``; a negative number is a signal."""
        self.processor_seconds = 0.0
        """Usage of the process and of the children that it has waited for, after its end."""

    def poll(self) -> int | None:
        """Returns the exit status, or None while the process runs."""
        if self.returncode is None:
            self.returncode, self.processor_seconds = self._server.ask("poll", self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Returns the exit status.

        Raises:
            TimeoutError: the process still runs after so many seconds.
        """
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise TimeoutError(f"process {self.pid} still runs after {timeout:.0f} s")
            time.sleep(POLL_SECONDS)
        return self.returncode

    def send(self, number: int) -> None:
        """Sends a signal to the process alone."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill_group(self) -> None:
        """Kills the process and all its descendants, also after its own end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class ForkServer:
    """The owner's side of the server. Closing it, or the end of the owner, ends the server and kills all children.

    Args:
        preload: modules to import before the first child.
    """

    def __init__(self, preload: Sequence[str] = PRELOADED):
        own, its = socket.socketpair()
        self._lock = threading.Lock()
        self.pid = os.fork()
        if self.pid == 0:
            own.close()
            _serve(its, preload)
        its.close()
        self._socket = own

    def start(self, start: Start) -> Child:
        """Starts a process."""
        return Child(self, self.ask("start", start))

    def wait_until_ready(self) -> None:
        """Waits until everything is imported."""
        self.ask("ready", None)

    def ask(self, question: str, content: Any) -> Any:
        """Sends a question to the server and returns its answer.

        Raises:
            RuntimeError: the server failed.
        """
        with self._lock:
            _send(self._socket, (question, content))
            answer = _receive(self._socket)
        if isinstance(answer, Exception):
            raise RuntimeError("the fork server failed") from answer
        return answer

    def close(self) -> None:
        """Ends the server."""
        self._socket.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(owner: socket.socket, preload: Sequence[str]) -> None:
    """Answers the owner until its end. It does not return."""
    os.setsid()  # only the owner handles Ctrl-C in its terminal
    children: set[int] = set()
    try:
        _redirect(Path(os.devnull), Path(os.devnull))
        _close_files_but(owner.fileno())
        is_loaded = False
        while (request := _receive(owner)) is not None:
            if not is_loaded:
                _load(preload)
                is_loaded = True
            _send(owner, _answer(owner, children, *request))
    except BaseException as error:
        with contextlib.suppress(OSError):
            _send(owner, RuntimeError("".join(traceback.format_exception(error))))
    finally:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        os._exit(0)


def _load(modules: Sequence[str]) -> None:
    for module in modules:
        import_module(module)
    import torch

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # the memory of what is imported stays shared with the children


def _close_files_but(kept: int) -> None:
    """Closes the files of the owner, because some have readers that wait until all writers are closed."""
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number != kept:
            with contextlib.suppress(OSError):
                os.close(number)


def _answer(owner: socket.socket, children: set[int], question: str, content: Any) -> Any:
    if question == "ready":
        return True
    if question == "start":
        pid = os.fork()
        if pid == 0:
            owner.close()
            _run(content)
        children.add(pid)
        return pid
    pid, status, used = os.wait4(content, os.WNOHANG)
    if pid == 0:
        return None, 0.0
    children.discard(content)
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def _run(start: Start) -> None:
    """Runs the entry point in the child and ends like the interpreter. It does not return."""
    status = 1
    try:
        os.setsid()
        _forget_owner()
        _redirect(start.log, start.errors or start.log)
        os.chdir(start.folder)
        os.environ.update(start.env)
        tempfile.tempdir = None  # chosen again, by the variables of this start
        sys.argv = list(start.arguments)
        sys.modules["__main__"] = types.ModuleType("__main__")  # replaces the owner's, from which programs take their name
        if start.before is not None:
            start.before()
        module, _, function = start.entry.partition(":")
        getattr(import_module(module), function)()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        traceback.print_exc()
        status = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    with contextlib.suppress(BaseException):
        threading._shutdown()  # waits for threads, as the interpreter does
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _forget_owner() -> None:
    """Removes the exit handlers of the owner, and resets signals as in a new process."""
    atexit._clear()
    weakref.finalize._registry.clear()
    weakref.finalize._registered_with_atexit = False
    multiprocessing.util._finalizer_registry.clear()
    atexit.register(logging.shutdown)
    atexit.register(multiprocessing.util._exit_function)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _redirect(output: Path, errors: Path) -> None:
    """Redirects the output of the process to files, including log handlers that keep an earlier stream."""
    before = sys.stdout, sys.stderr
    files = [os.open(os.devnull, os.O_RDONLY)]
    files += [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) for path in (output, errors)]
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False, encoding="utf-8", buffering=1)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", closefd=False, encoding="utf-8", buffering=1)
    for reference in logging._handlerList:
        handler = reference()
        if type(handler) is logging.StreamHandler and handler.stream in before:
            handler.setStream(sys.stdout if handler.stream is before[0] else sys.stderr)


def _send(connection: socket.socket, message: Any) -> None:
    content = dumps(message)
    connection.sendall(struct.pack("!I", len(content)) + content)


def _receive(connection: socket.socket) -> Any:
    """Returns a message, or None when the other end is closed."""
    head = _read(connection, 4)
    return None if head is None else loads(_read(connection, struct.unpack("!I", head)[0]))


def _read(connection: socket.socket, size: int) -> bytes | None:
    content = b""
    while len(content) < size:
        block = connection.recv(size - len(content))
        if not block:
            return None
        content += block
    return content
