"""Extraction by the tasks of a cluster: each opens model and data on its machine, and writes a part.

A task gets the manifest lines of its part. Audio, features and labels do not pass through this process. All machines must
see the model, the data and the output folder under the same names.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from nemo_birq.data.shards.plan import byte_versions
from nemo_birq.data.shards.ray_cluster import RayCluster
from nemo_birq.data.shards.workers import Workers, advance, run_jobs
from nemo_birq.extraction.data import Part, SpeechData, make_loader
from nemo_birq.extraction.run import Compute, Entry, ExtractionSummary, Write, run_missing, write_parts
from nemo_birq.extraction.store import PartFolder, PartStore
from nemo_birq.utils.files import file_sha256
from nemo_birq.utils.progress import Advance, Progress
from nemo_birq.utils.urls import is_url


class Opened(NamedTuple):
    """Data, computation and writer of a task."""

    data: SpeechData
    compute: Compute
    write: Write


class Extraction(Protocol):
    """Description of an extraction by names and options: hashable, and the same on all machines."""

    @property
    def model(self) -> str:
        """Path of the model."""

    def open(self) -> Opened:
        """Opens model and data; errors as ``load_encoder`` and ``open_data``."""


class _Work(NamedTuple):
    """Inputs that all tasks of an extraction share."""

    extraction: Extraction
    model_sha256: str
    fingerprint: str
    workers: int
    """Decoding processes of a task."""


class _PartJob(NamedTuple):
    work: _Work
    folder: str
    part: Part
    entries: list[Entry]
    batch_seconds: float


class _BatchJob(NamedTuple):
    work: _Work
    batches: list[list[int]]


def connect(address: str, workers: int) -> tuple[RayCluster, int]:
    """Connects to a Ray cluster for tasks of a model: with a GPU each if the cluster has any.

    Args:
        address: see ``RayCluster``.
        workers: decoding processes of a task with a GPU. A task on a CPU decodes in its own process.

    Returns:
        The cluster, and the number of decoding processes of a task.

    Raises:
        ImportError, BuildError: as ``RayCluster``.
    """
    cluster = RayCluster(address, versions)
    if cluster.has_gpus():
        cluster.gpus, cluster.cpus = 1, 1 + workers
        return cluster, workers
    return cluster, 0


def versions() -> dict[str, str]:
    """Returns the versions that the outputs of a model depend on."""
    return byte_versions() | {name: version(name) for name in ("nemo_toolkit", "torch")}


def absolute(place: str | None) -> str | None:
    """Returns a path that does not depend on the working folder; URLs and lists stay as they are."""
    return place if place is None or is_url(place) or place.startswith("[") else os.path.abspath(place)


def write_nothing(*_: Any) -> None:
    """Writes nothing; the writer of an extraction whose results return to this process."""


def run_parts_on(
    cluster: Workers,
    extraction: Extraction,
    data: SpeechData,
    store: PartStore,
    progress: Progress,
    part_seconds: float,
    batch_seconds: float,
    workers: int,
) -> ExtractionSummary:
    """Computes and writes the parts that are missing in the store, each by a task; arguments and errors as ``run_parts``.

    Args:
        cluster: cluster of the tasks.
        extraction: opens model and data in a task.
        workers: decoding processes of a task.
    """

    def write_all(todo: list[Part], entries: Iterable[list[Entry]], report: Advance) -> int:
        work = _describe(extraction, data, workers)
        folder = str(store.folder.absolute())
        jobs = (_PartJob(work, folder, *entry, batch_seconds) for entry in zip(todo, entries, strict=True))
        return sum(count for _, count in run_jobs(_write_part, jobs, cluster, report))

    return run_missing(data, store, progress, part_seconds, write_all)


def compute_on(
    cluster: Workers,
    extraction: Extraction,
    data: SpeechData,
    groups: Iterable[list[list[int]]],
    report: Callable[[float], None],
    workers: int,
) -> Iterator[tuple[int, tuple[int, list[Any]]]]:
    """Computes groups of batches by tasks, a group each.

    Yields:
        The number of a group, with the number of utterances that could be read and the results of the others in their order.
    """
    work = _describe(extraction, data, workers)
    yield from run_jobs(_compute_group, (_BatchJob(work, group) for group in groups), cluster, report)


def _describe(extraction: Extraction, data: SpeechData, workers: int) -> _Work:
    return _Work(extraction, file_sha256(Path(extraction.model)), data.fingerprint, workers)


@lru_cache(maxsize=1)  # a process keeps model and data for its next tasks
def _open(work: _Work) -> Opened:
    from nemo.utils import logging

    logging.setLevel(logging.WARNING)
    if file_sha256(Path(work.extraction.model)) != work.model_sha256:
        raise ValueError(
            f"a machine of the cluster sees another file as {work.extraction.model}: put the model into a shared folder, or "
            "copy the same file to all machines"
        )
    opened = work.extraction.open()
    if opened.data.fingerprint != work.fingerprint:
        raise ValueError(
            "a machine of the cluster sees other manifests or audio under the same names: put the data into a shared folder "
            "or a store, and run the same command again"
        )
    return opened


def _write_part(job: _PartJob) -> int:
    data, compute, write = _open(job.work)
    store = PartFolder(Path(job.folder))
    return write_parts(data, store, [job.part], [job.entries], compute, write, advance, job.batch_seconds, job.work.workers)


def _compute_group(job: _BatchJob) -> tuple[int, list[Any]]:
    data, compute, _ = _open(job.work)
    durations, results = data.durations, []
    read = 0
    for planned, (rows, speech) in zip(job.batches, make_loader(data, job.batches, job.work.workers), strict=True):
        if not speech.is_silent_stand_in:
            results += compute(speech)
            read += len(rows)
        advance(float(durations[planned].sum()))
    return read, results
