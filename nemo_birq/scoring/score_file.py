"""Reading of the files that ``birq score`` wrote, with a check of every number against the texts in the file."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from nemo_birq.data.json_lines import show
from nemo_birq.data.manifests import find_seconds_problem
from nemo_birq.scoring.results import count_utterance, groups, rates, total_seconds
from nemo_birq.utils.files import read_json

TEXTS = ("audio_filepath", "text", "hypothesis", "reference_scored", "hypothesis_scored")
ROUNDING = 1e-9
LARGEST = 2**63
INTERVAL_SHARE = 0.25
"""Share of its width by which a bootstrap interval may differ, because versions of NumPy may draw different samples."""


def read_score(path: Path) -> dict[str, Any]:
    """Reads a score.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a score, or a number does not fit its texts; the message names file and key.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give a file that birq score wrote")
    found = read_json(path)
    check_score(path, found)
    return found


def check_score(path: Path, found: dict[str, Any]) -> None:
    """Computes the numbers of a score again and compares them.

    Args:
        path: path of the file, for messages.
        found: content of the file.

    Raises:
        ValueError: a key is missing, a value has another type, or a number does not fit the texts.
    """
    utterances, normalization = found.get("utterances"), found.get("normalization")
    if not isinstance(utterances, list) or not utterances or not isinstance(normalization, dict):
        raise ValueError(
            f"{path} is not a score: it has no utterances or no normalization. Give a file that birq score wrote"
        )
    for number, utterance in enumerate(utterances):
        where = f"utterances[{number}]"
        _check_types(path, where, utterance)
        counts = count_utterance(utterance["reference_scored"], utterance["hypothesis_scored"])
        _compare(path, where, utterance, counts)
    if not any(utterance["words"] for utterance in utterances):
        raise ValueError(f"{path} is not a score: its references have no word. Give a file that birq score wrote")
    changed = {
        "references_changed": sum(u["text"] != u["reference_scored"] for u in utterances),
        "hypotheses_changed": sum(u["hypothesis"] != u["hypothesis_scored"] for u in utterances),
    }
    _compare(path, "normalization", normalization, changed)
    steps = normalization.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise _wrong_type(path, "normalization.steps", steps, "a list of sentences")
    _compare(path, "", found, rates(utterances) | groups(utterances) | {"seconds": total_seconds(utterances)})
    _check_unwritable(path, found)
    for key in ("manifest", "model", "name", "decoding"):
        if not isinstance(found.get(key, ""), str):
            raise _wrong_type(path, key, found[key], "a text")


def _check_types(path: Path, where: str, utterance: object) -> None:
    if not isinstance(utterance, dict):
        raise _wrong_type(path, where, utterance, "an object")
    for key in TEXTS:
        if not _is_text(utterance.get(key)):
            raise _wrong_type(path, f"{where}.{key}", utterance.get(key), "a text")
    if not isinstance(utterance.get("speaker"), str | None):
        raise _wrong_type(path, f"{where}.speaker", utterance["speaker"], "a text or null")
    for key in ("offset", "duration"):
        if find_seconds_problem(key, utterance.get(key)):
            raise _wrong_type(path, f"{where}.{key}", utterance.get(key), "a number of seconds")


def _is_text(value: object) -> bool:
    try:  # file names may hold bytes that are not UTF-8, as Python represents them
        return isinstance(value, str) and value.encode(errors="surrogateescape") is not None
    except UnicodeEncodeError:
        return False  # an unpaired surrogate


def _check_unwritable(path: Path, found: dict[str, Any]) -> None:
    """Checks the counts of unwritable characters. The file does not show which characters a model cannot write."""
    signs = found.get("unwritable")
    if not isinstance(signs, dict):
        raise _wrong_type(path, "unwritable", signs, "an object")
    occurs = Counter(sign for utterance in found["utterances"] for sign in utterance["reference_scored"])
    _compare(path, "unwritable", signs, {sign: occurs[sign] for sign in signs})


def _compare(path: Path, key: str, recorded: Any, recounted: Any) -> None:
    """Compares a value of the file with the value computed from its texts, key by key."""
    if isinstance(recounted, dict) and isinstance(recorded, dict):
        for inner, value in recounted.items():
            name = f"{key}.{inner}" if key else inner
            if inner not in recorded:
                raise ValueError(f"{path} is damaged: {name} is missing. {_REMEDY}")
            _compare(path, name, recorded[inner], value)
    elif isinstance(recounted, list) and isinstance(recorded, list) and len(recorded) == len(recounted):
        for number, (one, other) in enumerate(zip(recorded, recounted, strict=True)):
            _compare(path, f"{key}[{number}]", one, other)
    elif isinstance(recounted, tuple) and isinstance(recorded, list) and len(recorded) == len(recounted):
        room = INTERVAL_SHARE * (recounted[1] - recounted[0]) + ROUNDING
        if not all(_is_number(one) and abs(one - other) <= room for one, other in zip(recorded, recounted, strict=True)):
            raise _does_not_follow(path, key, recorded, list(recounted))
    elif _is_number(recounted) and _is_number(recorded):
        if not math.isclose(recorded, recounted, rel_tol=ROUNDING, abs_tol=ROUNDING):
            raise _does_not_follow(path, key, recorded, recounted)
    elif recorded != recounted or isinstance(recorded, bool):
        raise _does_not_follow(path, key, recorded, recounted)


_REMEDY = "It was changed or cut off: score again (birq score --redo)."


def _is_number(value: object) -> bool:
    """Returns True if a value can be compared with a number; NaN is a number that equals no other."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST)


def _does_not_follow(path: Path, key: str, recorded: Any, recounted: Any) -> ValueError:
    values = f"{key} is recorded as {show(recorded)}, and its texts give {show(recounted)}"
    return ValueError(f"{path} is damaged: {values}. {_REMEDY}")


def _wrong_type(path: Path, key: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"{path} is damaged: {key} is {show(value)}, but must be {wanted}. {_REMEDY}")
