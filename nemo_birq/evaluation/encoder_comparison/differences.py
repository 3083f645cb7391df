"""Differences of ABX error rates between encoders, speaker by speaker."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nemo_birq.evaluation.abx.layers import best_layer
from nemo_birq.evaluation.abx.score import AbxError
from nemo_birq.evaluation.encoder_comparison.measure import Measured
from nemo_birq.evaluation.encoder_comparison.table import KINDS
from nemo_birq.scoring.confidence import jackknife_interval


@dataclass
class AbxDifference:
    """An encoder compared with the first one on the test set, each with the layer that the dev set chooses."""

    kind: str
    """``within`` or ``across``."""
    first: str
    second: str
    difference: float
    """Error rate of the second minus that of the first: below 0, the second is better."""
    interval: tuple[float, float]
    """95 % interval for other speakers; both encoders are measured on the same ones."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        low, high = (f"{100 * limit:+.1f}" for limit in self.interval)
        verdict = "they do not differ significantly" if self.interval[0] <= 0 <= self.interval[1] else "they differ"
        return (
            f"ABX {self.kind}: {self.second} has {100 * self.difference:+.1f} points against {self.first}, "
            f"95 % interval {low} to {high}: {verdict}."
        )


def abx_differences(rows: Sequence[Measured]) -> list[AbxDifference]:
    """Compares each encoder with the first one; leaves out rates without an interval."""
    found = []
    for kind in KINDS:
        scored = [(row.name, getattr(best.test, kind)) for row in rows if (best := best_layer(row.abx, kind))]
        scored = [(name, score) for name, score in scored if score.interval]
        if scored and scored[0][0] == rows[0].name:
            (first, reference), *others = scored
            found += [AbxDifference(kind, first, name, *difference(reference, score)) for name, score in others]
    return found


def difference(first: AbxError, second: AbxError) -> tuple[float, tuple[float, float]]:
    """Returns the difference of two error rates, second minus first, and its 95 % interval by the paired jackknife."""
    speakers = sorted(first.without_speaker.keys() | second.without_speaker.keys())

    def without(score: AbxError) -> np.ndarray:  # a speaker with no triples at this frame rate changes nothing
        return np.array([score.without_speaker.get(speaker, score.error) for speaker in speakers])

    whole = second.error - first.error
    return whole, jackknife_interval(whole, without(second) - without(first))
