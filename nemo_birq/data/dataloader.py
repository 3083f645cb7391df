"""The data loader: follows the plan of each epoch, and resumes at any batch of it."""

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property

import numpy as np
import torch
from nemo.utils import logging

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.data.dataset import PlannedRows, SpeechDataset
from nemo_birq.data.epoch_batches import BatchSettings
from nemo_birq.data.epoch_plan import EpochPlan
from nemo_birq.data.index import SpeechIndex
from nemo_birq.data.retries import RemoteError
from nemo_birq.data.shared_plans import PlanRequest, is_large, prepare_plan, shared_plan


class BatchOrder(torch.utils.data.Sampler):
    """Yields the rows of this rank's batches, from a position on.

    Each rank takes one batch of the plan in each step. If the last step of an epoch has fewer batches than ranks, their
    utterances are divided over all ranks. A rank that gets none yields an empty list, for which the dataset makes a silent
    stand-in, so that all ranks take the same number of steps.

    Args:
        indexes: the datasets.
        weights: share of each dataset, or None; see ``epoch_plan.order_of_utterances``.
        settings: settings of the batches.
        rank: number of this rank.
        world_size: number of ranks.
        endless: continues with the next epoch, for training; otherwise every iteration is the same epoch.
        stride: distance between two batches of a worker process, which is the number of worker processes.
    """

    def __init__(
        self,
        indexes: Sequence[SpeechIndex],
        weights: Sequence[float] | None,
        settings: BatchSettings,
        rank: int,
        world_size: int,
        endless: bool,
        stride: int = 1,
    ):
        self.indexes, self.weights, self.settings = indexes, weights, settings
        self.rank, self.world_size, self.endless = rank, world_size, endless
        self.stride = stride
        self.epoch = 0
        self.batch = 0  # number of finished batches of the plan, of all ranks together
        self.planned_for = world_size  # number of ranks when this epoch began
        self._plans: dict[tuple[int, int], EpochPlan] = {}
        self.length = -(-len(self.plan(0, world_size)) // world_size)

    def plan(self, epoch: int, world_size: int) -> EpochPlan:
        """Returns the plan of an epoch, which is made at the first call."""
        if (epoch, world_size) not in self._plans:
            self._plans = dict([*self._plans.items()][-1:])  # reading ahead needs two
            self._plans[epoch, world_size] = self._make_plan(epoch, world_size)
        return self._plans[epoch, world_size]

    def _make_plan(self, epoch: int, world_size: int) -> EpochPlan:
        request = PlanRequest(self.fingerprint, list(self.indexes), self.weights, self.settings, epoch, world_size)
        if not is_large(request):
            return request.make()
        plan = shared_plan(request)
        if self.endless:
            prepare_plan(request._replace(epoch=epoch + 1, world_size=self.world_size))
        return plan

    def __len__(self) -> int:
        """Returns the steps of the first epoch, which Lightning uses for all epochs; others may have a few more or less."""
        return self.length

    def __iter__(self) -> Iterator[PlannedRows]:
        coming: deque[PlannedRows] = deque()
        for rows in self._planned():
            coming.append(rows)
            if len(coming) > self.stride:
                first = coming.popleft()
                first.following = list(rows)
                yield first
        yield from coming

    def _planned(self) -> Iterator[PlannedRows]:
        position = self.epoch, self.batch, self.planned_for
        while True:
            rows, position = self._step(position)
            if rows is None:
                return
            epoch, following, _ = position
            yield PlannedRows(rows, (epoch, following - self.world_size + self.rank))

    def advance(self) -> None:
        """Moves the position by a step."""
        _, (self.epoch, self.batch, self.planned_for) = self._step((self.epoch, self.batch, self.planned_for))

    def _step(self, position: tuple[int, int, int]) -> tuple[list[int] | None, tuple[int, int, int]]:
        """Returns the rows at a position and the position after it; None in place of rows after the last batch."""
        epoch, batch, planned_for = position
        plan = self.plan(epoch, planned_for)
        if batch >= len(plan):
            if not self.endless:
                return None, position
            epoch, batch, planned_for = epoch + 1, 0, self.world_size
            plan = self.plan(epoch, planned_for)
        batches = plan.batches(batch, batch + self.world_size)
        if len(batches) < self.world_size:
            batches = np.array_split(np.concatenate(batches), self.world_size)
        return batches[self.rank].tolist(), (epoch, batch + self.world_size, planned_for)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that determines the plans, except for the paths of the files."""
        digest = hashlib.sha256(json.dumps([self.weights, asdict(self.settings)], default=list).encode())
        for index in self.indexes:
            digest.update(index.durations.tobytes())
            digest.update(index.shards.tobytes())
        return digest.hexdigest()[:16]


class SpeechLoader(torch.utils.data.DataLoader):
    """Yields ``SpeechBatch`` in the order of a ``BatchOrder``.

    ``state_dict`` holds the position after the last yielded batch, however many batches have been read ahead. A loader of
    the same data and settings that loads it continues with the next batch, with any number of workers and ranks.
    """

    def __init__(self, dataset: SpeechDataset, order: BatchOrder, num_workers: int, pin_memory: bool):
        super().__init__(
            dataset,
            sampler=order,
            batch_size=None,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
        )

    def __iter__(self) -> Iterator[SpeechBatch]:
        order: BatchOrder = self.sampler
        try:
            for batch in super().__iter__():
                if order.endless:
                    order.advance()
                yield batch
        except RemoteError as error:  # the message of a worker's error is its traceback; the reason is in the last line
            raise RemoteError(str(error).rpartition("RemoteError: ")[2]) from error

    def state_dict(self) -> dict:
        order: BatchOrder = self.sampler
        return {
            "epoch": order.epoch,
            "batch": order.batch,
            "planned_for": order.planned_for,
            "length": order.length,
            "fingerprint": order.fingerprint,
        }

    def load_state_dict(self, state: dict) -> None:
        order: BatchOrder = self.sampler
        if state["fingerprint"] != order.fingerprint:
            logging.warning(
                "The training data, the settings of batches or the seed differ from those of the checkpoint: a new epoch "
                "begins at its first batch"
            )
            order.epoch, order.batch, order.planned_for = state["epoch"] + 1, 0, order.world_size
            return
        order.epoch, order.batch, order.planned_for = state["epoch"], state["batch"], state["planned_for"]
        if state["planned_for"] == order.world_size:
            order.length = state["length"]
        batches = len(order.plan(order.epoch, order.planned_for))
        logging.info(f"The data continue in epoch {order.epoch} after batch {order.batch} of {batches}")
