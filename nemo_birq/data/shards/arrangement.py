"""Finds duplicate segments and assigns pieces to shards, with arrays."""

import random
from array import array
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

from nemo_birq.data.shards.listing import SEGMENTS, ListedInput
from nemo_birq.data.shards.plan import BuildOptions, ShardPlan
from nemo_birq.data.shards.segments import BuildError, Skipped

_AT_ONCE = 1 << 16  # numbers in memory as Python objects


class Repeated(NamedTuple):
    """Segments that are left out because others are the same."""

    rows: np.ndarray
    """(R,) int64, their numbers."""
    reasons: list[Skipped]


def find_repeated(listed: ListedInput) -> Repeated:
    """Finds segments with the identity of an earlier one, or with the same audio through a link."""
    first = _first_of_group(listed, "identity")
    same_name = np.flatnonzero(first != np.arange(len(first)))
    first = _first_of_group(listed, "audio")
    paths = listed.column(SEGMENTS, "path")
    links = np.setdiff1d(np.flatnonzero(paths != paths[first]), same_name)
    first = first[links]
    reasons = [
        Skipped(name, "duplicate", "an earlier utterance has the same name") for name in _identities(listed, same_name)
    ] + [
        Skipped(name, "duplicate", f"through a link, it has the same audio as {other}")
        for name, other in zip(_identities(listed, links), _identities(listed, first), strict=True)
    ]
    return Repeated(np.concatenate([same_name, links]), reasons)


def _first_of_group(listed: ListedInput, name: str) -> np.ndarray:
    """Returns the number of the first segment with the same hash for each segment, (segments,) int64."""
    high, low = (listed.column(SEGMENTS, f"{name}_{half}") for half in ("high", "low"))
    order = np.lexsort((low, high))  # the sort is stable, so the first of a group stays the first
    begins = np.ones(len(order), bool)
    begins[1:] = (high[order[1:]] != high[order[:-1]]) | (low[order[1:]] != low[order[:-1]])
    first = np.empty_like(order)
    first[order] = order[begins][np.cumsum(begins) - 1]
    return first


def _identities(listed: ListedInput, rows: np.ndarray) -> Iterator[str]:
    return (text.decode(errors="surrogateescape") for text in listed.texts(SEGMENTS, "identity", rows))


class Dealt(NamedTuple):
    """Pieces assigned to shards."""

    shards: list[ShardPlan]
    order: np.ndarray
    """(N,) int32, numbers of the pieces, shard after shard."""
    bucket_limits: list[float]
    """Longest duration in each bucket, in seconds."""


def deal(by_name: np.ndarray, seconds: np.ndarray, options: BuildOptions) -> Dealt:
    """Shuffles pieces and assigns them to shards.

    Args:
        by_name: (N,) int32, numbers of the pieces in the order of their names.
        seconds: (N,) float64, durations by number.
        options: options of the build.

    Raises:
        BuildError: there is less than one utterance for a bucket or shard.
    """
    order = by_name[_shuffled(len(by_name), options.seed)]
    shards, found, limits = [], [], []
    for number, rows in enumerate(_buckets(order, seconds, options.buckets), start=1):
        folder = "." if options.buckets == 1 else f"bucket{number}"
        limits.append(round(float(seconds[rows].max()), 3))
        for shard_id, dealt in enumerate(_deal(rows, total(seconds[rows]), options, folder)):
            shards.append(ShardPlan(folder, shard_id, len(dealt), total(seconds[dealt])))
            found.append(dealt)
    return Dealt(shards, np.concatenate(found), limits)


def _shuffled(number: int, seed: int) -> np.ndarray:
    """Returns 0 to N-1 in the order of Python's shuffle, (N,) int32."""
    numbers = array("i", np.arange(number, dtype=np.int32).tobytes())
    random.Random(seed).shuffle(numbers)
    return np.frombuffer(numbers, np.int32)


def _buckets(order: np.ndarray, seconds: np.ndarray, number: int) -> list[np.ndarray]:
    """Returns buckets with equally many hours, the shortest utterances first; keeps the order inside each."""
    if number == 1:
        return [order]
    by_length = np.argsort(seconds[order], kind="stable")
    lengths = seconds[order[by_length]]
    hours = np.cumsum(lengths)
    bucket = np.empty(len(order), np.int32)
    bucket[by_length] = np.minimum((hours - lengths / 2) * number // hours[-1], number - 1)
    buckets = [order[bucket == i] for i in range(number)]
    if not all(map(len, buckets)):
        raise BuildError(f"{len(order)} utterances are too few for {number} buckets; ask for fewer")
    return buckets


def _deal(rows: np.ndarray, seconds: float, options: BuildOptions, folder: str) -> list[np.ndarray]:
    number = options.num_shards or max(1, round(seconds / 3600 / options.shard_hours))
    if number > len(rows):
        where = "" if folder == "." else f" of {folder}"
        raise BuildError(f"{len(rows)} utterances{where} cannot fill {number} shards; ask for fewer")
    return [rows[shard_id::number] for shard_id in range(number)]


def total(seconds: np.ndarray) -> float:
    """Adds numbers in their order, unlike numpy's sum."""
    blocks = (seconds[first : first + _AT_ONCE].tolist() for first in range(0, len(seconds), _AT_ONCE))
    return sum(chain.from_iterable(blocks))
