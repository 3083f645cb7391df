"""Utterances with the targets of a probe: symbols of a manifest key, or phones of an alignment."""

import os
from itertools import combinations
from typing import NamedTuple

import numpy as np

from nemo_birq.data.json_lines import show
from nemo_birq.data.subset import draw_hours
from nemo_birq.evaluation.label_quality.alignments import (
    Alignments,
    check_alignments,
    phone_name,
    phones_at,
    read_alignments,
)
from nemo_birq.evaluation.label_quality.utterances import rows_by_name, utterance_name
from nemo_birq.evaluation.probing.tasks import CtcTask, FrameTask
from nemo_birq.extraction.data import SpeechData, open_data
from nemo_birq.modules.frame_times import FrameTimes

NAMES = ("train", "dev", "test")


class LabelledSet(NamedTuple):
    """Utterances of one set that are used."""

    data: SpeechData
    rows: list[int]
    """Their numbers in ``data``."""
    lines: list[dict]
    """Their lines of the manifest."""
    sequences: list[list[str]] | None
    """Symbols of each utterance, for CTC."""
    alignments: Alignments | None
    """For frames."""

    @property
    def seconds(self) -> float:
        return float(self.data.durations[self.rows].sum())

    def targets(self, task: CtcTask | FrameTask, position: int, count: int, times: FrameTimes) -> np.ndarray:
        """Returns the targets of one utterance with ``count`` encoder frames: int64, see ``tasks``."""
        number = {symbol: i for i, symbol in enumerate(task.symbols)}
        if self.alignments is None:
            return np.array([number[symbol] for symbol in self.sequences[position]], dtype=np.int64)
        items = self.alignments.phones[utterance_name(self.lines[position])]
        return np.array([number.get(phone, -1) for phone in phones_at(items, times.middles(count))], dtype=np.int64)


def open_set(
    where: str, key: str, alignments: str | None, hours: float | None, sample_rate: int, name: str
) -> tuple[LabelledSet, list[str]]:
    """Opens a labelled set, and lists the symbols of all its utterances before ``hours`` of them are drawn.

    Args:
        where: manifest, or folder of shards.
        key: of the manifest, for CTC: text, or a (nested) list of phones.
        alignments: CTM file or folder of TextGrid files; then phones of frames and not ``key``.
        hours: use only so much audio, see ``draw_hours``.
        sample_rate: of the model, in Hz.
        name: of the set, for messages.

    Raises:
        FileNotFoundError: see ``open_data`` and ``read_alignments``.
        ValueError: no utterances, or some without labels.
    """
    data = open_data(where, None, sample_rate)
    lines = list(data.lines())
    rows = list(range(len(lines)))
    found = None
    if alignments is not None:
        found, rows = _aligned(data, lines, alignments)
        symbols = {item.symbol for items in found.phones.values() for item in items}
    else:
        sequences = [_sequence(line, key, f"{name} set {where}") for line in lines]
        symbols = {symbol for sequence in sequences for symbol in sequence}
    if not symbols:
        raise ValueError(f"{name} set {where}: all its utterances are empty, there is nothing to learn")
    rows = [rows[i] for i in draw_hours(data.durations[rows], hours)]
    chosen = [lines[row] for row in rows]
    texts = None if alignments is not None else [sequences[row] for row in rows]
    return LabelledSet(data, rows, chosen, texts, found), sorted(symbols)


def _aligned(data: SpeechData, lines: list[dict], path: str) -> tuple[Alignments, list[int]]:
    """Reads the alignments and returns them with the rows of the utterances that have one."""
    rows = rows_by_name(data, lines)
    found = read_alignments(path, set(rows))
    check_alignments(found.phones, dict(zip(rows, data.durations.tolist(), strict=True)))
    return found, [row for name, row in rows.items() if name in found.phones]


def _places(labelled: LabelledSet) -> set[tuple[str, str, float]]:
    """Returns file or shard, member, and the start of each utterance in it."""
    found, places = set(), list(labelled.data.places())
    for name, file, *_, start, _ in (places[row] for row in labelled.rows):
        path = os.path.abspath(file)
        found.add((path, path if name == file else name, start))
    return found


def _sequence(line: dict, key: str, where: str) -> list[str]:
    value = line.get(key)
    if isinstance(value, str):
        return list(" ".join(value.split()))
    if isinstance(value, list):
        flat = [phone for entry in value for phone in (entry if isinstance(entry, list) else [entry])]
        if all(isinstance(phone, str | int) and not isinstance(phone, bool) for phone in flat):
            return [phone_name(str(phone)) for phone in flat]
        raise ValueError(f"{where}: {line['audio_filepath']} has a symbol under {key!r} that is no name: {show(value)}")
    raise ValueError(
        f"{where}: {line['audio_filepath']} has no {key!r} to compare with (its keys: {', '.join(sorted(line))}). Give "
        "a manifest with transcripts, another --key, or --alignments"
    )


def _check_apart(sets: dict[str, LabelledSet]) -> None:
    places = {name: _places(one) for name, one in sets.items()}
    for first, second in combinations(NAMES, 2):
        both = places[first] & places[second]
        if both:
            raise ValueError(f"{len(both)} utterances of the {second} set are in the {first} set, such as {min(both)[1]}")


def open_sets(
    paths: dict[str, str], key: str, alignments: dict[str, str] | None, hours: float | None, sample_rate: int
) -> tuple[dict[str, LabelledSet], CtcTask | FrameTask]:
    """Opens training, dev and test set, and the task on the symbols of the training set.

    Args:
        paths: by ``NAMES``.
        key, hours, sample_rate: see ``open_set``; ``hours`` are of the training set.
        alignments: by ``NAMES``, or None for CTC.

    Raises:
        FileNotFoundError, ValueError: see ``open_set``; symbols that the training set does not have; the same utterances
            in two sets.
    """
    sets, symbols = {}, {}
    for name in NAMES:
        sets[name], symbols[name] = open_set(
            paths[name], key, alignments and alignments[name], hours if name == "train" else None, sample_rate, name
        )
    for name in NAMES[1:]:
        foreign = sorted(set(symbols[name]) - set(symbols["train"]))
        if foreign and alignments is None:
            raise ValueError(
                f"{name} set {paths[name]} has the symbols {foreign}, which the training set has not: normalize both texts "
                "in the same way (case, digits, punctuation)"
            )
        if len(sets[name].rows) < 2:
            raise ValueError(f"{name} set {paths[name]} has one utterance that can be used; give more")
    _check_apart(sets)
    if alignments is not None:
        return sets, FrameTask(sorted(set().union(*symbols.values())))
    is_text = all(isinstance(line[key], str) for line in sets["train"].lines)
    return sets, CtcTask(symbols["train"], "CER" if is_text else "PER")
