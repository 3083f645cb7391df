"""Computes medians, spread and ratios of measured steps."""

from typing import NamedTuple

import numpy as np


class Target(NamedTuple):
    """A ratio that this project aims to reach."""

    what: str
    """``time`` or ``memory``."""
    of: str
    to: str
    at_most: float | None


STOCK = "stock BEST-RQ"
TARGETS = (
    Target("time", "BiRQ", STOCK, 1.0),
    Target("time", "BEST-RQ", STOCK, 0.75),
    Target("time", "BiRQ", "floor", 1.05),
    Target("time", "BiRQ, label gradient", STOCK, None),
    Target("time", "BiRQ, label gradient", "floor, label gradient", None),
    Target("memory", "BiRQ", STOCK, 1.0),
    Target("memory", "BEST-RQ", STOCK, None),
    Target("memory", "BiRQ, label gradient", STOCK, None),
)


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    q25: float
    q75: float


def spread(values: list[float]) -> Spread:
    q25, middle, q75 = np.quantile(values, (0.25, 0.5, 0.75))
    return Spread(float(middle), float(q25), float(q75))


def ratio(numerator: list[float], denominator: list[float], samples: int = 2000) -> tuple[float, float, float]:
    """Returns the ratio of medians with a 95 % interval, by a bootstrap over rounds.

    Args:
        numerator, denominator: seconds of the same rounds in the same order, because a slow round affects both.
        samples: number of bootstrap samples.
    """
    top, bottom = np.asarray(numerator), np.asarray(denominator)
    if top.shape != bottom.shape or top.size == 0:
        raise ValueError(f"a ratio needs the same rounds of both, at least one: {top.size} and {bottom.size}")
    drawn = np.random.default_rng(0).integers(top.size, size=(samples, top.size))
    ratios = np.median(top[drawn], axis=1) / np.median(bottom[drawn], axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(np.median(top) / np.median(bottom)), float(low), float(high)


def compare(seconds: dict[str, list[float]], memory: dict[str, float]) -> list[dict]:
    """Returns ratio, interval (time) and success of every target whose variants were measured.

    Args:
        seconds: seconds of each variant's steps by round.
        memory: bytes of each variant.
    """
    rows = []
    for target in TARGETS:
        measured = seconds if target.what == "time" else memory
        if target.of not in measured or target.to not in measured:
            continue
        row = {"what": target.what, "of": target.of, "to": target.to, "target": target.at_most}
        if target.what == "time":
            row["ratio"], row["low"], row["high"] = ratio(seconds[target.of], seconds[target.to])
        else:
            row["ratio"] = memory[target.of] / memory[target.to]
        row["reached"] = None if target.at_most is None else row["ratio"] <= target.at_most
        rows.append(row)
    return rows


def exponent(sizes: list[float], costs: list[float]) -> float:
    """Returns p of the power law ``cost = c * size**p`` that fits best in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])
