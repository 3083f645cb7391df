"""Comparison of two models on one test set, utterance by utterance."""

import os

import numpy as np

from nemo_birq.scoring.confidence import matched_pairs_p, permutation_p, ratio_interval, sum_by
from nemo_birq.scoring.eval_sets import identity
from nemo_birq.utils.terminal import printable

SHOWN = 200
"""Number of characters of an utterance name in a message."""


def compare(first: dict, second: dict) -> dict:
    """Computes differences of error rates, second minus first: below zero, the second model is better.

    Returns:
        For ``wer`` and ``cer``: ``first``, ``second``, ``difference``, its 95 % interval by the paired bootstrap and the p
        value of the paired permutation test, over utterances and, with two or more speakers, over speakers; for utterances
        also the matched pairs test. ``utterances`` lists those that differ in errors, the largest difference first.

    Raises:
        ValueError: utterances, references or normalization differ.
    """
    pairs = _pairs(first, second)
    found: dict = {"num_utterances": len(pairs)}
    speakers = [one["speaker"] for one, _ in pairs]
    for name, errors, units in (("wer", "errors", "words"), ("cer", "character_errors", "characters")):
        one, two = (np.array([pair[side][errors] for pair in pairs], float) for side in (0, 1))
        size = np.array([pair[0][units] for pair in pairs], float)
        found[name] = {"first": one.sum() / size.sum(), "second": two.sum() / size.sum()}
        found[name]["difference"] = (two.sum() - one.sum()) / size.sum()
        found[name]["utterances"] = _tests(one, two, size) | {"matched_pairs_p": matched_pairs_p(one, two)}
        if None not in speakers and len(set(speakers)) > 1:
            found[name]["speakers"] = _tests(*sum_by(speakers, one, two, size))
    different = [pair for pair in pairs if pair[0]["errors"] != pair[1]["errors"]]
    different.sort(key=lambda pair: -abs(pair[1]["errors"] - pair[0]["errors"]))
    found["utterances"] = [
        {
            "audio_filepath": one["audio_filepath"],
            "reference": one["reference_scored"],
            "first": one["hypothesis_scored"],
            "second": two["hypothesis_scored"],
            "first_errors": one["errors"],
            "second_errors": two["errors"],
        }
        for one, two in different
    ]
    return found


def _tests(first: np.ndarray, second: np.ndarray, units: np.ndarray) -> dict:
    """Tests the difference over rows, utterances or speakers."""
    return {
        "rows": len(units),
        "interval": ratio_interval(second - first, units),
        "permutation_p": permutation_p(first, second),
    }


def _pairs(first: dict, second: dict) -> list[tuple[dict, dict]]:
    if first["normalization"]["steps"] != second["normalization"]["steps"]:
        raise ValueError("the scores were normalized in different ways: score both models with the same --normalization")
    sides = []
    for side in (first, second):
        named = {identity(utterance): utterance for utterance in side["utterances"]}
        if len(named) < len(side["utterances"]):
            raise ValueError(
                f"{side['manifest']} has an utterance more than once: remove the repetition to compare utterances in pairs"
            )
        sides.append(named)
    if sides[0].keys() != sides[1].keys():
        sides = [_by_place(side) for side in sides]  # a test set that was moved
    one, two = sides
    only = sorted(one.keys() ^ two.keys())
    if only:
        raise ValueError(
            f"the scores are of different test sets: {printable(only[0])[:SHOWN]} is only in one of them "
            f"({len(only)} such utterances): score both models on the same test set"
        )
    changed = [name for name in one if one[name]["reference_scored"] != two[name]["reference_scored"]]
    if changed:
        raise ValueError(
            f"the scores have different references for {changed[0]} ({len(changed)} such utterances): score both models on "
            "the same manifest"
        )
    return [(one[name], two[name]) for name in one]


def _by_place(named: dict[str, dict]) -> dict[str, dict]:
    """Returns utterances by their path relative to their common folder."""
    folders = [os.path.dirname(os.path.normpath(utterance["audio_filepath"])) for utterance in named.values()]
    if len({os.path.isabs(folder) for folder in folders}) > 1:
        return named
    common = os.path.commonpath(folders)
    return {os.path.relpath(name, common or "."): utterance for name, utterance in named.items()}
