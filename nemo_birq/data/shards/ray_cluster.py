"""Jobs as tasks of a Ray cluster: of this machine alone, or of many that see the same input and output."""

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from nemo_birq.data.shards.plan import byte_versions
from nemo_birq.data.shards.segments import BuildError
from nemo_birq.data.shards.workers import Job, Workers, run_here
from nemo_birq.utils.progress import Advance

RETRIES = 3  # of a task whose process or machine was lost
WAITING = 1000  # tasks that the cluster has at once
ANY = "any"
"""The cluster that ``RAY_ADDRESS`` names, or the one that runs on this machine, or else a new one for this process."""


class RayCluster:
    """A cluster whose tasks are jobs. Only what a job returns comes back to this process, no audio.

    Args:
        address: of its head, such as ``ray://head:10001`` or ``10.0.0.1:6379``; or ``ANY``.
        versions: returns the versions on which the results depend, and which all machines must share.

    Raises:
        ImportError: Ray is not installed.
        BuildError: there is no cluster at this address.
    """

    cpus = 1
    """CPUs that a task takes."""
    gpus = 0
    """GPUs that a task takes."""

    def __init__(self, address: str, versions: Callable[[], dict[str, str]] = byte_versions):
        self.versions = versions
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to its makers
        try:
            import ray
        except ImportError as error:
            raise ImportError(f"--ray needs Ray, which is not installed ({error}): pip install 'nemo_birq[ray]'") from error
        self._ray = ray
        if ray.is_initialized():
            return
        try:
            quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
            ray.init(None if address == ANY else address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BuildError(
                f"--ray={address}: there is no cluster that answers ({error}); start one with ray start --head, or leave "
                "out the address for one of this machine"
            ) from error

    def has_gpus(self) -> bool:
        """Tests if a machine of the cluster has a GPU."""
        return self._ray.cluster_resources().get("GPU", 0) > 0

    def run(self, function: Callable[[Job], Any], jobs: Iterable[Job], report: Advance) -> Iterator[tuple[int, Any]]:
        """Runs jobs as ``workers.run_jobs`` does.

        Raises:
            BuildError: machines of the cluster were lost again and again, lack nemo_birq, or have other versions of it.
            Exception: what a job raised; jobs that have not begun are not run then.
        """
        ray, versions = self._ray, self.versions()
        task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=RETRIES)(_run)
        rest = iter(enumerate(jobs))
        waiting: dict[Any, int] = {}
        try:
            while True:
                more = islice(rest, WAITING - len(waiting))
                waiting |= {task.remote(function, job, self.versions, versions): number for number, job in more}
                if not waiting:
                    return
                finished, _ = ray.wait([*waiting], timeout=None)
                for reference in finished:
                    number = waiting.pop(reference)
                    result, done = ray.get(reference)
                    report(done)
                    yield number, result
        except ray.exceptions.RayTaskError as error:
            if "No module named" in str(error.cause):  # also where the job itself cannot be read
                lacking = str(error.cause).partition("No module named ")[2].splitlines()[0]
                raise BuildError(
                    f"a machine of the cluster lacks the module {lacking}: install nemo_birq with what the input needs on "
                    "all of them"
                ) from error
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise BuildError(
                f"the cluster lost a task {RETRIES + 1} times, or itself ({str(error).splitlines()[0]}): give its machines "
                "more memory for each CPU, and run the same command again; what is finished is kept"
            ) from error
        finally:
            for reference in waiting:
                ray.cancel(reference)


def choose_workers(number: int, address: str | None) -> Workers:
    """Returns the cluster at an address, or without one a number of processes; errors as ``RayCluster``."""
    return RayCluster(address) if address else max(1, number)


def _run(
    function: Callable[[Job], Any], job: Job, versions: Callable[[], dict[str, str]], wanted: dict[str, str]
) -> tuple[Any, float]:
    """Runs a job in a task; returns its result, and the work that was done."""
    if (here := versions()) != wanted:
        raise BuildError(
            f"a machine of the cluster has the versions {here}, and this one has {wanted}, so their results would differ: "
            "install the same versions on all machines"
        )
    done: list[float] = []
    [(_, result)] = run_here(function, [job], done.append)
    return result, sum(done)
