"""Plans of large epochs: one process of a machine makes each plan, and all others map its file into memory.

A plan takes microseconds an utterance, which is minutes for tens of millions. So the plan of the next epoch is made in the
background during an epoch, and only the first one is waited for. The plans are stored in the cache folder of the indexes.
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
from nemo_birq.data.epoch_batches import BatchSettings
from nemo_birq.data.epoch_plan import EpochPlan, plan_epoch
from nemo_birq.data.index import SpeechIndex
from nemo_birq.data.tables import cache_folder
from nemo_birq.utils.files import complete_file

LEAST_UTTERANCES = 1_000_000
"""Number of utterances from which on plans are shared; smaller ones are made in seconds."""
KEPT = 3  # epochs whose plans are kept: the previous one may not be over yet, and reading ahead has begun the next


class PlanRequest(NamedTuple):
    """Everything that determines a plan."""

    fingerprint: str
    """Fingerprint of indexes, weights and settings; see ``dataloader.BatchOrder.fingerprint``."""
    indexes: list[SpeechIndex]
    weights: list[float] | None
    settings: BatchSettings
    epoch: int
    world_size: int

    @property
    def folder(self) -> Path:
        """Folder of the plans of all epochs, another one for each version, because all ranks must follow the same plan."""
        versions = nemo_birq.__version__, version("lhotse"), f"{sys.version_info.major}.{sys.version_info.minor}"
        return cache_folder() / "plans" / "-".join((self.fingerprint, f"{self.world_size}", *versions))

    def make(self, parallel: bool = False) -> EpochPlan:
        """Makes the plan; ``parallel`` uses all cores."""
        return plan_epoch(self.indexes, self.weights, self.settings, self.epoch, self.world_size, parallel)


def is_large(request: PlanRequest) -> bool:
    """Tests if the plan is shared by the processes of a machine."""
    return sum(map(len, request.indexes)) >= LEAST_UTTERANCES


def shared_plan(request: PlanRequest) -> EpochPlan:
    """Returns a plan from the cache folder, mapped into memory; makes it, or waits for the process that is making it.

    Raises:
        OSError: the cache folder cannot be written.
    """
    with FileLock(_prepared(request) / f"{request.epoch}.lock"):
        return _load_or_make(request, parallel=True)


def prepare_plan(request: PlanRequest) -> None:
    """Makes a plan in another process, unless a process of this machine is making it or has made it."""
    if int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0) == 0 and not _rows(request).is_file():
        get_context("spawn").Process(target=_prepare, args=(request,), daemon=True).start()


def _prepare(request: PlanRequest) -> None:
    os.nice(10)  # the training goes first
    try:
        with FileLock(_prepared(request) / f"{request.epoch}.lock", timeout=0):
            _load_or_make(request, parallel=False)
    except Timeout:
        pass


def _load_or_make(request: PlanRequest, parallel: bool) -> EpochPlan:
    rows, ends = _rows(request), _rows(request).with_suffix(".ends.npy")
    if not rows.is_file():
        plan = request.make(parallel)
        for path, array in ((ends, plan.ends), (rows, plan.rows)):  # the rows are last: with them the plan is complete
            with complete_file(path) as part, open(part, "wb") as file:
                np.save(file, array)
        _forget(request)
    return EpochPlan(np.load(rows, mmap_mode="r"), np.load(ends))


def _forget(request: PlanRequest) -> None:
    """Deletes the plans of past epochs; a process that has mapped one can still read it."""
    for path in request.folder.glob("*.*"):
        if int(path.name.partition(".")[0]) <= request.epoch - KEPT:
            path.unlink(missing_ok=True)


def _prepared(request: PlanRequest) -> Path:
    request.folder.mkdir(parents=True, exist_ok=True)
    return request.folder


def _rows(request: PlanRequest) -> Path:
    return request.folder / f"{request.epoch}.npy"
