"""Batches of a part of an epoch, made by Lhotse's bucketing from rows and durations alone.

This module does not import NeMo, so that processes that make the parts of a large epoch start quickly.
"""

import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
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
from omegaconf import DictConfig, OmegaConf

from nemo_birq.data.shards.workers import advance

ITEMS_AT_ONCE = 1 << 16  # utterances held as objects, in addition to those in Lhotse's buffers


@dataclass(slots=True)
class _Item:
    """The properties of an utterance that Lhotse needs."""

    row: int
    duration: float


@dataclass(frozen=True)
class BatchSettings:
    """Settings of the batches; names and meaning are those of NeMo's Lhotse loader."""

    batch_size: int | None = None
    """Largest number of utterances in a batch."""
    batch_duration: float | None = None
    """Largest number of seconds in a batch, with padding."""
    quadratic_duration: float | None = None
    """Utterances of this many seconds count twice in ``batch_duration``, longer ones more."""
    use_bucketing: bool = False
    num_buckets: int = 30
    bucket_duration_bins: Sequence[float] | None = None
    """Upper limits of the buckets in seconds; None: see ``duration_bins``."""
    bucket_batch_size: Sequence[int] | None = None
    bucket_buffer_size: int = 10000
    """Number of utterances that bucketing reads ahead."""
    shuffle: bool = False
    shuffle_buffer_size: int | None = 10000
    """Number of utterances among which the next one is drawn; shards and the utterances in each are shuffled first."""
    min_duration: float = -1.0
    max_duration: float = float("inf")
    seed: int = 0


def read_batch_settings(config: DictConfig) -> BatchSettings:
    """Returns the settings that a ``train_ds`` or ``validation_ds`` node has; other keys are ignored."""
    found = {field.name: config.get(field.name) for field in fields(BatchSettings)}
    plain = {key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for key, value in found.items()}
    return BatchSettings(**{key: value for key, value in plain.items() if value is not None})


class EpochPart(NamedTuple):
    """Utterances whose batches are made together."""

    rows: np.ndarray
    """(N,) int64: utterances in the order of reading."""
    durations: np.ndarray
    """(N,) float64: their durations in seconds."""
    bins: list[float] | None
    """Upper limits of the buckets in seconds, as ``duration_bins`` returns them."""
    settings: BatchSettings
    seed: int
    world_size: int


def duration_bins(durations: np.ndarray, settings: BatchSettings) -> list[float] | None:
    """Returns the upper limits of the buckets in seconds, so that all buckets have equally many hours.

    NeMo spaces them evenly up to ``max_duration``, because it streams manifests and does not know the durations. On real
    speech, that made three times the padding (docs/performance.md).

    Args:
        durations: (N,) float64, durations of some of the utterances.
        settings: settings of the batches.

    Returns:
        The limits, None without bucketing, or those that are set.
    """
    if not settings.use_bucketing:
        return None
    if settings.bucket_duration_bins:
        return list(settings.bucket_duration_bins)
    sample = [_Item(0, float(duration)) for duration in durations]
    number = min(settings.num_buckets, len(sample))
    return list(map(float, estimate_duration_buckets(sample, number, _constraint(settings)))) if number > 1 else []


def make_batches(part: EpochPart) -> tuple[np.ndarray, np.ndarray]:
    """Makes the batches of a part: rows, (N,) int64, batch after batch, and the end of each batch, (batches,) int64."""
    items: Iterator[_Item] = _items(part)
    if part.settings.shuffle and part.settings.shuffle_buffer_size:
        items = streaming_shuffle(items, part.settings.shuffle_buffer_size, random.Random(part.seed))
    rows, ends = array("q"), array("q")  # 8 bytes each, where a list of integers takes 40
    for batch in _batches(items, part):
        rows.extend(item.row for item in batch)
        ends.append(len(rows))
    return np.array(rows, np.int64), np.array(ends, np.int64)


def _items(part: EpochPart) -> Iterator[_Item]:
    for first in range(0, len(part.rows), ITEMS_AT_ONCE):
        some = slice(first, first + ITEMS_AT_ONCE)
        rows = part.rows[some].tolist()
        yield from map(_Item, rows, part.durations[some].tolist())
        advance(len(rows))


def _batches(items: Iterator[_Item], part: EpochPart) -> Iterator[Sequence[_Item]]:
    settings = part.settings
    if part.bins is None:
        return iter(DurationBatcher(items, constraint=_constraint(settings)))
    return iter(
        DynamicBucketer(
            ((item,) for item in items),
            duration_bins=part.bins,
            world_size=part.world_size,
            constraint=_constraint(settings),
            buffer_size=settings.bucket_buffer_size,
            shuffle=settings.shuffle,
            rng=random.Random(part.seed + 1),
            bucket_rng=random.Random(part.seed + 2),
        )
    )


def _constraint(settings: BatchSettings) -> SamplingConstraint:
    if settings.bucket_batch_size:
        return FixedBucketBatchSizeConstraint(list(settings.bucket_duration_bins), list(settings.bucket_batch_size))
    return TimeConstraint(settings.batch_duration, settings.batch_size, quadratic_duration=settings.quadratic_duration)
