"""The interval of the jackknife holds the true value as often as it says, also for a rate over pairs of four speakers."""

from collections.abc import Callable

import numpy as np
import pytest

from nemo_birq.scoring.confidence import jackknife_interval

pytestmark = pytest.mark.unit
TRUE, DEVIATION, SPEAKERS, SETS = 0.15, 0.03, 4, 2000


def within(random: np.random.Generator) -> Callable[[np.ndarray], float]:
    """A mean over speakers."""
    rates = TRUE + random.normal(0, DEVIATION, SPEAKERS)
    return lambda chosen: rates[chosen].mean()


def across(random: np.random.Generator) -> Callable[[np.ndarray], float]:
    """A mean over pairs of different speakers; a speaker makes all its pairs harder or easier, in either place."""
    rates = TRUE + random.normal(0, DEVIATION, (SPEAKERS, SPEAKERS))
    rates += random.normal(0, DEVIATION, (SPEAKERS, 1)) + random.normal(0, DEVIATION, (1, SPEAKERS))

    def mean(chosen: np.ndarray) -> float:
        return rates[np.ix_(chosen, chosen)][chosen[:, None] != chosen].mean()

    return mean


@pytest.mark.parametrize("rate", [within, across])
def test_four_speakers_are_enough(rate):
    random, held = np.random.default_rng(0), 0
    everyone = np.arange(SPEAKERS)
    for _ in range(SETS):
        mean = rate(random)
        low, high = jackknife_interval(mean(everyone), np.array([mean(np.delete(everyone, left)) for left in everyone]))
        held += low <= TRUE <= high
    # 95 % for a mean, within two standard deviations of 2,000 draws; for pairs, the variance is at least the true one.
    assert held / SETS == pytest.approx(0.95, abs=0.01) if rate is within else 0.94 < held / SETS < 0.985


def test_one_group_has_no_interval():
    assert jackknife_interval(0.1, np.array([0.1])) is None
