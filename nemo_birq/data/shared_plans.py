"""Plans of large epochs: one process of a machine makes each, all others map it, and the next one is made meanwhile.

A plan takes microseconds an utterance, which is minutes for tens of millions: no step should wait for it, and no rank should
hold it in memory of its own. The plans lie in the cache folder of the indexes.
"""

import os
import sys
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

import nemo_birq
from nemo_birq.data.epoch_plan import BatchSettings, EpochPlan, plan_epoch
from nemo_birq.data.index import SpeechIndex
from nemo_birq.data.tables import cache_folder
from nemo_birq.utils.files import complete_file

LEAST_UTTERANCES = 1_000_000
"""Utterances from which on plans are shared; those of smaller data are made in seconds."""
KEPT = 3  # epochs whose plans stay: the last one may be under way still, and reading ahead has begun the next


class PlanRequest(NamedTuple):
    """All that a plan follows from."""

    fingerprint: str
    """Fingerprint of indexes, weights and settings; see ``dataloader.BatchOrder.fingerprint``."""
    indexes: list[SpeechIndex]
    weights: list[float] | None
    settings: BatchSettings
    epoch: int
    world_size: int

    @property
    def folder(self) -> Path:
        """Folder of the plans of all epochs. Other versions have other ones: ranks must never follow different plans."""
        versions = nemo_birq.__version__, version("lhotse"), f"{sys.version_info.major}.{sys.version_info.minor}"
        return cache_folder() / "plans" / "-".join((self.fingerprint, f"{self.world_size}", *versions))

    def make(self) -> EpochPlan:
        """Lays out the epoch."""
        return plan_epoch(self.indexes, self.weights, self.settings, self.epoch, self.world_size)


def is_large(request: PlanRequest) -> bool:
    """Tests if the plan is worth sharing."""
    return sum(map(len, request.indexes)) >= LEAST_UTTERANCES


def shared_plan(request: PlanRequest) -> EpochPlan:
    """Returns a plan from the cache folder, mapped into memory; makes it, or waits for the process that makes it now.

    Raises:
        OSError: the cache folder cannot be written.
    """
    with FileLock(_prepared(request) / f"{request.epoch}.lock"):
        return _load_or_make(request)


def prepare_plan(request: PlanRequest) -> None:
    """Makes a plan in a process of its own, unless another process of this machine makes it or has made it."""
    if int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0) == 0 and not _rows(request).is_file():
        get_context("spawn").Process(target=_prepare, args=(request,), daemon=True).start()


def _prepare(request: PlanRequest) -> None:
    os.nice(10)  # the training goes first
    try:
        with FileLock(_prepared(request) / f"{request.epoch}.lock", timeout=0):
            _load_or_make(request)
    except Timeout:
        pass


def _load_or_make(request: PlanRequest) -> EpochPlan:
    rows, ends = _rows(request), _rows(request).with_suffix(".ends.npy")
    if not rows.is_file():
        plan = request.make()
        for path, array in ((ends, plan.ends), (rows, plan.rows)):  # the rows are last: with them the plan is whole
            with complete_file(path) as part, open(part, "wb") as file:
                np.save(file, array)
        _forget(request)
    return EpochPlan(np.load(rows, mmap_mode="r"), np.load(ends))


def _forget(request: PlanRequest) -> None:
    """Deletes the plans of epochs that are over; processes that have mapped one keep it."""
    for path in request.folder.glob("*.*"):
        if int(path.name.partition(".")[0]) <= request.epoch - KEPT:
            path.unlink(missing_ok=True)


def _prepared(request: PlanRequest) -> Path:
    request.folder.mkdir(parents=True, exist_ok=True)
    return request.folder


def _rows(request: PlanRequest) -> Path:
    return request.folder / f"{request.epoch}.npy"
