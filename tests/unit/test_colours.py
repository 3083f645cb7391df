"""The palette of all pictures: legible on both grounds, and distinguishable with any kind of colour vision."""

from itertools import combinations

import numpy as np
import pytest

from nemo_birq.report.pictures import THEMES
from nemo_birq.utils.colours import MARKERS, PALETTE, RUNS

pytestmark = pytest.mark.unit

# Dichromats see these colours, in linear RGB: Machado, Oliveira and Fernandes 2009, severity 1.
VISION = {
    "normal": np.eye(3),
    "red-blind": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "green-blind": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "blue-blind": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
# Linear RGB to OKLab, in which equal distances look equal: Ottosson 2020.
TO_CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]  # fmt: skip
TO_LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]  # fmt: skip


def linear(colour: str) -> np.ndarray:
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def difference(first: str, second: str) -> float:
    """Returns the smallest distance in OKLab over all kinds of colour vision."""
    seen = [
        [TO_LAB @ np.cbrt(TO_CONES @ np.clip(np.array(vision) @ linear(colour), 0, 1)) for vision in VISION.values()]
        for colour in (first, second)
    ]
    return np.linalg.norm(np.subtract(*seen), axis=1).min()


def contrast(first: str, second: str) -> float:
    """Returns the contrast of the Web Content Accessibility Guidelines, 1 to 21."""
    low, high = sorted(linear(colour) @ [0.2126, 0.7152, 0.0722] for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def test_any_two_colours_are_told_apart_by_all_readers():
    assert difference("#000000", "#ffffff") == pytest.approx(1, abs=1e-3)
    assert difference("#c79a12", "#e0782f") < 0.05  # gold and orange, which readers confused
    for first, second in combinations(PALETTE, 2):
        assert difference(first, second) >= 0.08, (first, second)


def test_every_colour_is_legible_on_both_grounds():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for ground, *_ in THEMES.values():
        assert min(contrast(colour, ground) for colour in PALETTE) >= 2.6


def test_each_run_has_its_colour_and_its_marker():
    assert sorted(RUNS) == sorted(PALETTE) and len(set(RUNS)) == len(RUNS) == len(set(MARKERS)) == len(MARKERS)
