"""Plan of an epoch: all batches are determined before the epoch begins.

A plan depends on data, settings, seed and number of the epoch alone. Therefore every epoch has an end and a length, each
utterance goes to exactly one rank, and two numbers, epoch and batch, suffice to resume.
"""

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from nemo_birq.data.epoch_batches import BatchSettings, EpochPart, duration_bins, make_batches
from nemo_birq.data.index import SpeechIndex
from nemo_birq.data.shards.segments import BuildError
from nemo_birq.data.shards.workers import run_jobs
from nemo_birq.utils.progress import ProgressBars

UTTERANCES_OF_A_PART = 1_000_000
"""Lhotse takes some 15 microseconds an utterance, so the parts of a large epoch are made by several processes."""
MAX_PROCESSES = 16
SAMPLE = 10_000  # utterances that the limits of the buckets are estimated from


class EpochPlan(NamedTuple):
    """Batches of one epoch, for all ranks together."""

    rows: np.ndarray
    """(N,) int64: the utterances, batch after batch."""
    ends: np.ndarray
    """(batches,) int64: the end of each batch in ``rows``."""

    def __len__(self) -> int:
        return len(self.ends)

    def batches(self, first: int, last: int) -> list[np.ndarray]:
        """Returns the rows of the batches ``first`` to ``last - 1``, or of those among them that exist."""
        bounds = [self.ends[first - 1] if first else 0, *self.ends[first:last]]
        return [self.rows[start:end] for start, end in pairwise(bounds)]


def plan_epoch(
    indexes: Sequence[SpeechIndex],
    weights: Sequence[float] | None,
    settings: BatchSettings,
    epoch: int,
    world_size: int,
    parallel: bool = False,
) -> EpochPlan:
    """Makes the plan of an epoch.

    Args:
        indexes: the datasets; rows are counted through all of them.
        weights: share of each in the number of utterances, or None for their own sizes; see ``order_of_utterances``.
        settings: settings of the batches.
        epoch: its number, from 0.
        world_size: number of consecutive batches that come from one bucket, so that no rank waits for a longer batch of
            another.
        parallel: makes the parts of a large epoch in a process for each core. The plan is the same.

    Raises:
        MemoryError: the system ended a process.
    """
    seeds = np.random.SeedSequence((settings.seed, epoch))
    durations = indexes[0].durations if len(indexes) == 1 else np.concatenate([index.durations for index in indexes])
    order = order_of_utterances(indexes, weights, settings, int(seeds.generate_state(1)[0]))
    bins = duration_bins(durations[order[:: max(1, len(order) // SAMPLE)]], settings)
    pieces = np.array_split(order, max(1, -(-len(order) // UTTERANCES_OF_A_PART)))
    parts = (
        EpochPart(rows, durations[rows], bins, settings, int(seed), world_size)
        for rows, seed in zip(pieces, seeds.generate_state(len(pieces)), strict=True)
    )
    processes = min(len(pieces), len(os.sched_getaffinity(0)), MAX_PROCESSES) if parallel else 1
    with ProgressBars(transient=True, disable=len(pieces) == 1) as progress:
        try:
            made = dict(run_jobs(make_batches, parts, processes, progress.start("Planning the epoch", len(order))))
        except BuildError as error:
            raise MemoryError(
                f"the system ended one of {processes} processes that plan the epoch, most likely because memory ran out: "
                "free some memory and start again"
            ) from error
    return _join([made[number] for number in range(len(pieces))], world_size)


def _join(parts: list[tuple[np.ndarray, np.ndarray]], world_size: int) -> EpochPlan:
    """Joins the parts; the last batches of a part, where they are fewer than the ranks, go to the end of the epoch."""
    whole, rest = [], []
    for rows, ends in parts:
        number = len(ends) // world_size * world_size
        cut = ends[number - 1] if number else 0
        whole.append((rows[:cut], ends[:number]))
        rest.append((rows[cut:], ends[number:] - cut))
    rows, ends = zip(*whole, *rest, strict=True)
    sizes = [len(part) for part in rows]
    starts = np.repeat(np.cumsum([0, *sizes[:-1]]), [len(part) for part in ends])
    return EpochPlan(np.concatenate(rows), np.concatenate(ends) + starts)


def order_of_utterances(
    indexes: Sequence[SpeechIndex], weights: Sequence[float] | None, settings: BatchSettings, seed: int
) -> np.ndarray:
    """Returns the rows in the order of reading, (N,) int64; those of several datasets are evenly mixed.

    With weights, the dataset whose weight is the smallest in relation to its size is read once in an epoch. The others are
    repeated as often as their weights demand, so that no utterance is lost.
    """
    rng = np.random.default_rng(seed)
    orders = []
    first = 0
    for index in indexes:
        usable = (index.durations >= settings.min_duration) & (index.durations <= settings.max_duration)
        orders.append((first, index, np.flatnonzero(usable)))
        first += len(index)
    sizes = np.array([len(usable) for _, _, usable in orders], float)
    wanted = sizes
    if weights is not None:
        share = np.asarray(weights, float) / np.sum(weights)
        wanted = np.ceil(share * np.max(sizes / share))
    found, when = [], []
    for (offset, index, usable), size, number in zip(orders, sizes, wanted, strict=True):
        if size == 0:
            continue
        passes = [_pass(index, usable, settings.shuffle, rng) for _ in range(int(np.ceil(number / size)))]
        rows = np.concatenate(passes)[: int(number)]
        found.append(offset + rows)
        when.append((np.arange(len(rows)) + 0.5) / len(rows))
    if not found:
        return np.zeros(0, np.int64)
    if len(found) == 1:
        return found[0]
    return np.concatenate(found)[np.argsort(np.concatenate(when), kind="stable")]


def _pass(index: SpeechIndex, rows: np.ndarray, shuffle: bool, rng: np.random.Generator) -> np.ndarray:
    """Shuffles the shards, and the rows within each shard, so that only few shards are open at a time."""
    if not shuffle:
        return rows
    shards = index.shards[rows]
    return rows[np.lexsort((rng.random(len(rows)), rng.permutation(int(shards.max()) + 1)[shards]))]
