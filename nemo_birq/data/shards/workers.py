"""Runs jobs in many processes, with progress inside of jobs, and without leaving orphans."""

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
_JOBS_OF_A_WORKER = 4  # submitted jobs per worker
_advance: Callable[[float], None] = lambda amount: None  # noqa: E731


class Cluster(Protocol):
    """Machines that run jobs instead of processes of this machine."""

    def run(self, function: Callable[[Job], Any], jobs: Iterable[Job], report: Advance) -> Iterator[tuple[int, Any]]:
        """Runs jobs as ``run_jobs`` does."""


Workers = int | Cluster
"""A number of processes, or a cluster."""


def advance(amount: float) -> None:
    """Reports that a job has done some of its work."""
    _advance(amount)


def run_jobs(
    function: Callable[[Job], Any], jobs: Iterable[Job], workers: Workers, report: Advance
) -> Iterator[tuple[int, Any]]:
    """Runs ``function`` on all jobs; yields the number of each job with its result, in the order in which they end.

    Args:
        function: function of a job, which calls ``advance`` when some of its work is done.
        jobs: arguments of the function, which are taken when workers need them.
        workers: number of processes, with 1 the jobs run in this process; or a cluster.
        report: function that is called from time to time with the work since the last call.

    Raises:
        BuildError: the system killed a process.
        Exception: a job raised it; jobs that have not begun are not run then.
    """
    if not isinstance(workers, int):
        yield from workers.run(function, jobs, report)
        return
    if workers == 1:
        yield from run_here(function, jobs, report)
        return
    # A forked process would keep the lock on the output folder, and could wait for locks of threads that it does not have.
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
            "the system killed a process, most likely because memory ran out: run the same command again with fewer "
            "--workers; finished work is kept"
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
    """Ends a job whose result is no longer needed."""


def _start_worker(done: Any, stop: Any, parent: int) -> None:
    global _advance

    def count(amount: float) -> None:
        if stop.value:
            raise StoppedError
        with done.get_lock():
            done.value += amount

    _advance = count
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and stops the workers
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process if its parent was killed, because it would wait for work forever."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
