"""Which utterances make which batch: the whole epoch is laid out before it begins.

A plan follows from data, settings, seed and number of the epoch alone. So every epoch has an end and a length, each
utterance goes to exactly one rank, and resuming takes two numbers, epoch and batch. Lhotse's bucketing does the work.
"""

import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from lhotse.dataset.sampling.base import SamplingConstraint, TimeConstraint
from lhotse.dataset.sampling.dynamic import DurationBatcher
from lhotse.dataset.sampling.dynamic_bucketing import (
    DynamicBucketer,
    FixedBucketBatchSizeConstraint,
    estimate_duration_buckets,
)
from lhotse.utils import streaming_shuffle

from nemo_birq.data.index import SpeechIndex

ITEMS_AT_ONCE = 1 << 16  # that stand in memory as objects beside those in Lhotse's buffers


@dataclass(slots=True)
class _Item:
    """What Lhotse needs to know of an utterance."""

    row: int
    duration: float


@dataclass(frozen=True)
class BatchSettings:
    """How utterances are put together; names and meaning are those of NeMo's Lhotse loader."""

    batch_size: int | None = None
    """Utterances a batch, at most."""
    batch_duration: float | None = None
    """Seconds a batch, at most, with padding."""
    quadratic_duration: float | None = None
    """Utterances of this many seconds count twice in ``batch_duration``, longer ones more."""
    use_bucketing: bool = False
    num_buckets: int = 30
    bucket_duration_bins: Sequence[float] | None = None
    bucket_batch_size: Sequence[int] | None = None
    bucket_buffer_size: int = 10000
    """Utterances that bucketing looks ahead."""
    shuffle: bool = False
    shuffle_buffer_size: int | None = 10000
    """Utterances among which the next is drawn; shards are shuffled as a whole, and so is each in itself."""
    min_duration: float = -1.0
    max_duration: float = float("inf")
    seed: int = 0


class EpochPlan(NamedTuple):
    """Batches of one epoch, for all ranks together."""

    rows: np.ndarray
    """(N,) int64: the utterances, batch after batch."""
    ends: np.ndarray
    """(batches,) int64: where each batch ends."""

    def __len__(self) -> int:
        return len(self.ends)

    def batches(self, first: int, last: int) -> list[np.ndarray]:
        """Rows of the batches ``first`` to ``last - 1``, as far as there are."""
        bounds = [self.ends[first - 1] if first else 0, *self.ends[first:last]]
        return [self.rows[start:end] for start, end in pairwise(bounds)]


def plan_epoch(
    indexes: Sequence[SpeechIndex], weights: Sequence[float] | None, settings: BatchSettings, epoch: int, world_size: int
) -> EpochPlan:
    """Lays out an epoch.

    Args:
        indexes: the datasets; rows are counted through all of them.
        weights: share of each in the number of utterances, or None for their own sizes; see ``order_of_utterances``.
        settings: how batches are made.
        epoch: its number, from 0.
        world_size: so many batches in a row come from one bucket, that no rank waits for another's longer ones.
    """
    seed = int(np.random.SeedSequence((settings.seed, epoch)).generate_state(1)[0])
    durations = np.concatenate([index.durations for index in indexes])
    order = order_of_utterances(indexes, weights, settings, seed)
    items: Iterator[_Item] = _items(order, durations)
    if settings.shuffle and settings.shuffle_buffer_size:
        items = streaming_shuffle(items, settings.shuffle_buffer_size, random.Random(seed))
    rows, ends = array("q"), array("q")  # 8 bytes each, where a list of integers takes 40
    for batch in _batches(items, durations, settings, seed, world_size):
        rows.extend(item.row for item in batch)
        ends.append(len(rows))
    return EpochPlan(np.array(rows, np.int64), np.array(ends, np.int64))


def _items(order: np.ndarray, durations: np.ndarray) -> Iterator[_Item]:
    for first in range(0, len(order), ITEMS_AT_ONCE):
        rows = order[first : first + ITEMS_AT_ONCE]
        yield from map(_Item, rows.tolist(), durations[rows].tolist())


def order_of_utterances(
    indexes: Sequence[SpeechIndex], weights: Sequence[float] | None, settings: BatchSettings, seed: int
) -> np.ndarray:
    """Rows in the order of reading, (N,) int64, those of several datasets evenly mixed.

    With weights an epoch is as long as the dataset that is rarest in relation to its size needs to be read once; the others
    are read again as often as their share demands, so that none loses an utterance.
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
    """Shards in random order, each in random order: so only few shards are open at a time."""
    if not shuffle:
        return rows
    shards = index.shards[rows]
    return rows[np.lexsort((rng.random(len(rows)), rng.permutation(int(shards.max()) + 1)[shards]))]


def _batches(
    items: Iterator[_Item], durations: np.ndarray, settings: BatchSettings, seed: int, world_size: int
) -> Iterator[Sequence[_Item]]:
    bins = list(settings.bucket_duration_bins) if settings.bucket_duration_bins else None
    if settings.bucket_batch_size:
        constraint: SamplingConstraint = FixedBucketBatchSizeConstraint(bins, list(settings.bucket_batch_size))
    else:
        constraint = TimeConstraint(
            settings.batch_duration, settings.batch_size, quadratic_duration=settings.quadratic_duration
        )
    if not settings.use_bucketing:
        return iter(DurationBatcher(items, constraint=constraint))
    if bins is None:
        sample = [_Item(0, float(duration)) for duration in durations[:: max(1, len(durations) // 10000)]]
        number = min(settings.num_buckets, len(sample))
        bins = estimate_duration_buckets(sample, number, constraint) if number > 1 else []
    return iter(
        DynamicBucketer(
            ((item,) for item in items),
            duration_bins=bins,
            world_size=world_size,
            constraint=constraint,
            buffer_size=settings.bucket_buffer_size,
            shuffle=settings.shuffle,
            rng=random.Random(seed + 1),
            bucket_rng=random.Random(seed + 2),
        )
    )
