"""Effects of signals: a training process finishes its step, and the workers of its data loaders ignore them."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ONE_SIGNAL = 1.0
"""Seconds within which signals count as one, because ``timeout`` and job managers send a signal to process and group."""


class Signals:
    """Handlers of the signals that end a training process.

    The first signal ends the process at once with the exit code 128 + number. If ``deferred`` is set, it is stored in
    ``received`` instead, and a second signal ends the process at once.
    """

    def __init__(self):
        self.received = 0
        """Number of the first signal; 0: none."""
        self.requeue = 0
        """Number of the signal with which SLURM requests a checkpoint and a restart of the job; 0: none."""
        self.deferred = False
        self.before_end: Callable[[], None] | None = None
        """Function that is called before a second signal ends the process."""
        self._process = os.getpid()
        self._time = 0.0

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handles the signals within the block, then restores the previous handlers. Must run in the main thread."""
        before = {number: signal.getsignal(number) for number in STOPPING}
        self.install()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def install(self) -> None:
        """Installs the handlers, replacing those of Lightning, which would end with the exit code 0 without saving."""
        for number in STOPPING:
            signal.signal(number, self._handle)

    def end_if_received(self) -> None:
        """Ends a process that received a signal in its last step.

        Raises:
            SystemExit: with the exit code of the signal.
        """
        if self.received:
            raise SystemExit(128 + self.received)

    def install_requeue(self, number: int) -> None:
        """Installs the handler of SLURM's signal."""
        signal.signal(number, self._handle_requeue)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a worker that does not have its own handlers yet
        if not self.deferred:
            self.received = self.received or number
            raise SystemExit(128 + self.received)
        if not self.received:
            self.received, self._time = number, time.monotonic()
            # Not with logging, which may be in the middle of a line.
            name = signal.Signals(number).name
            os.write(2, f"\n{name}: a checkpoint is saved after this step. A second signal ends at once.\n".encode())
        elif time.monotonic() - self._time > ONE_SIGNAL:
            if self.before_end is not None:
                self.before_end()
            os._exit(128 + self.received)

    def _handle_requeue(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._process:
            self.requeue = number


def shield_workers(loader: DataLoader | None) -> None:
    """Makes the workers of a loader ignore signals to the process group, so that the step can be finished."""
    if isinstance(loader, DataLoader) and loader.num_workers > 0:
        loader.worker_init_fn = partial(_shield, loader.worker_init_fn)


def _shield(init: Callable[[int], Any] | None, worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_for_parent, daemon=True).start()
    if init is not None:
        init(worker)


def _end_for_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
