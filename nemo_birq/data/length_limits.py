"""The utterances that ``min_duration`` and ``max_duration`` leave out, and the rule for how many are too many."""

import math
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from nemo.utils import logging
from torch.utils.data import DataLoader

from nemo_birq.data.dataloader import BatchOrder, SpeechLoader

MAX_HOURS = 0.2
"""Share of the hours that a limit may leave out."""
MAX_UTTERANCES = 0.5
"""Share of the utterances that a limit may leave out. In meetings, many are single words with few of the hours."""
WANTED = 0.99
"""Share of the utterances that the suggested ``min_duration`` keeps; the shortest ones are often damaged."""


class LeftOut(NamedTuple):
    """Utterances beyond one limit."""

    key: str
    """``min_duration``, ``max_duration``, or ``bucket_duration_bins``, whose last entry is a limit, too."""
    limit: float
    """Seconds."""
    utterance_share: float
    hour_share: float
    enough: float
    """A value of the key, or a last entry, in seconds, that keeps the utterances."""

    @property
    def is_too_much(self) -> bool:
        return self.hour_share > MAX_HOURS or self.utterance_share > MAX_UTTERANCES

    def in_words(self, node: str = "") -> str:
        """Returns the shares and, if they are too large, the value that would keep the utterances.

        Args:
            node: prefix of the key, such as ``model.train_ds.``.
        """
        is_bin = self.key == "bucket_duration_bins"
        limit = f"{node}{self.key} ends with {self.limit:g} and" if is_bin else f"{node}{self.key}={self.limit:g}"
        found = f"{limit} leaves out {self.utterance_share:.1%} of the utterances, {self.hour_share:.1%} of the hours"
        if not self.is_too_much:
            return found
        if self.key == "min_duration":
            return f"{found}: {node}min_duration={self.enough:g} keeps at least {WANTED:.0%} of the utterances"
        value = f"a last entry of {self.enough:g}" if is_bin else f"{node}{self.key}={self.enough:g}"
        return f"{found}: {value} keeps all; if they do not fit into memory, birq make-shards --max-duration cuts them"


def find_left_out(
    durations: np.ndarray, min_duration: float, max_duration: float, longest_key: str = "max_duration"
) -> list[LeftOut]:
    """Finds the utterances that the limits leave out.

    Args:
        durations: (N,) durations of all utterances in seconds; N > 0.
        min_duration: seconds.
        max_duration: seconds.
        longest_key: the key from which ``max_duration`` comes.

    Returns:
        An entry for each limit that leaves out an utterance.
    """
    shortest = math.floor(100 * np.quantile(durations, 1 - WANTED, method="lower")) / 100
    found = (
        ("min_duration", min_duration, durations < min_duration, shortest),
        (longest_key, max_duration, durations > max_duration, math.ceil(100 * durations.max()) / 100),
    )
    total = max(durations.sum(), 1e-9)
    return [
        LeftOut(key, limit, float(beyond.mean()), float(durations[beyond].sum() / total), enough)
        for key, limit, beyond, enough in found
        if beyond.any()
    ]


def all_left_out(manifests: list[str], left_out: list[LeftOut]) -> str:
    """Returns the error message for limits that leave out everything."""
    limits = "; ".join(entry.in_words() for entry in left_out)
    return f"no utterance of {', '.join(manifests)} is between min_duration and max_duration: {limits}"


def warn_of_left_out(left_out: list[LeftOut]) -> None:
    """Logs a warning for each limit that leaves out too much."""
    for entry in left_out:
        if entry.is_too_much:
            logging.warning(entry.in_words())


def find_left_out_of_order(order: BatchOrder) -> list[LeftOut]:
    """Finds the utterances that the limits of planned batches leave out, over all their datasets."""
    settings = order.settings
    bins, longest = settings.bucket_duration_bins, settings.max_duration
    is_last_bin = bool(settings.bucket_batch_size and bins and longest == bins[-1])
    durations = np.concatenate([index.durations for index in order.indexes])
    return find_left_out(
        durations, settings.min_duration, longest, "bucket_duration_bins" if is_last_bin else "max_duration"
    )


def find_left_out_of_loader(loader: Collection | DataLoader) -> list[LeftOut]:
    """Finds the utterances that the limits of a loader of ``factory.build_dataloader`` leave out."""
    if isinstance(loader, SpeechLoader):
        return find_left_out_of_order(loader.sampler)
    return getattr(loader, "left_out", [])  # a loader that streams shards keeps no lengths
