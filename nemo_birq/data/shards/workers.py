"""Work in many processes, with progress finer than a job, and without orphans."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

from nemo_birq.data.shards.segments import BuildError
from nemo_birq.utils.progress import Advance

Job = TypeVar("Job")
_JOBS_OF_A_WORKER = 4  # that stand in memory
_advance: Callable[[float], None] = lambda amount: None  # noqa: E731


class Cluster(Protocol):
    """Machines that run jobs in place of processes of this one."""

    def run(self, function: Callable[[Job], Any], jobs: Iterable[Job], report: Advance) -> Iterator[tuple[int, Any]]:
        """Runs jobs as ``run_jobs`` does."""


Workers = int | Cluster
"""A number of processes, or a cluster."""


def advance(amount: float) -> None:
    """Called by a job when some of its work is done."""
    _advance(amount)


def run_jobs(
    function: Callable[[Job], Any], jobs: Iterable[Job], workers: Workers, report: Advance
) -> Iterator[tuple[int, Any]]:
    """Runs ``function`` on all jobs; yields the number of each job with its result, in the order in which they end.

    Args:
        function: calls ``advance`` when some of its work is done.
        jobs: its arguments; the next ones are asked for when some have ended.
        workers: processes, with 1 the jobs run in this one; or a cluster.
        report: is called now and then with the work that has been done since the last call.

    Raises:
        BuildError: the system killed a process.
        Exception: what a job raised; jobs that have not begun are not run then.
    """
    if not isinstance(workers, int):
        yield from workers.run(function, jobs, report)
        return
    if workers == 1:
        yield from run_here(function, jobs, report)
        return
    # Spawned, not forked: a forked process would keep the lock on the output folder, and inherit threads that stand still.
    context = get_context("spawn")
    done, stop = context.Value("d", 0.0), context.Value("b", 0)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (done, stop, os.getpid()))
    try:
        numbered, waiting = enumerate(jobs), {}
        reported = 0.0
        while True:
            for number, job in islice(numbered, _JOBS_OF_A_WORKER * workers - len(waiting)):
                waiting[pool.submit(function, job)] = number
            if not waiting:
                break
            finished, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in finished:
                yield waiting.pop(future), future.result()
            now = done.value
            report(now - reported)
            reported = now
    except BrokenProcessPool as error:
        raise BuildError(
            "a process was killed by the system, most likely for want of memory: run the same command again with "
            "fewer --workers; what is finished is kept"
        ) from error
    finally:
        stop.value = 1
        pool.shutdown(wait=True, cancel_futures=True)


def run_here(function: Callable[[Job], Any], jobs: Iterable[Job], report: Advance) -> Iterator[tuple[int, Any]]:
    """Runs jobs in this process; see ``run_jobs``."""
    global _advance
    previous, _advance = _advance, report
    try:
        for number, job in enumerate(jobs):
            yield number, function(job)
    finally:
        _advance = previous


class StoppedError(Exception):
    """Ends a job whose result nobody waits for any more."""


def _start_worker(done: Any, stop: Any, parent: int) -> None:
    global _advance

    def count(amount: float) -> None:
        if stop.value:
            raise StoppedError
        with done.get_lock():
            done.value += amount

    _advance = count
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops the others
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process when its parent was killed: it would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
