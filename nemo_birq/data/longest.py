"""The longest utterance of a dataset, which determines the memory that a batch needs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import DataLoader

from nemo_birq.data.dataloader import SpeechLoader
from nemo_birq.data.index import SpeechIndex


class LongUtterance(NamedTuple):
    """An utterance and its length."""

    name: str
    """Path of its file, or names of member and shard."""
    seconds: float


def find_longest(indexes: Sequence[SpeechIndex], rows: np.ndarray | Sequence[int] | None = None) -> LongUtterance:
    """Finds the longest utterance.

    Args:
        indexes: the datasets, whose rows are counted through all of them.
        rows: rows of the utterances to choose from, at least one; None: all.
    """
    durations = np.concatenate([index.durations for index in indexes])
    chosen = np.arange(len(durations)) if rows is None else np.asarray(rows)
    row = int(chosen[durations[chosen].argmax()])
    for index in indexes:
        if row < len(index):
            place = index.place(row)
            name = place.name if place.file == place.name else f"{place.name} of {place.file}"
            return LongUtterance(name, place.duration)
        row -= len(index)
    raise IndexError(f"there is no row {row}")


def find_longest_of_loader(loader: DataLoader | None) -> LongUtterance | None:
    """Finds the longest utterance that a loader of ``factory.build_dataloader`` yields; None without a loader."""
    if loader is None:
        return None
    if isinstance(loader, SpeechLoader):  # its plan respects min_duration and max_duration
        order = loader.sampler
        return find_longest(order.indexes, order.plan(0, order.world_size).rows)
    entries = loader.dataset.manifest_processor.collection  # of the loader that streams shards
    found = max(entries, key=lambda entry: entry.duration)
    return LongUtterance(found.audio_file, found.duration)
