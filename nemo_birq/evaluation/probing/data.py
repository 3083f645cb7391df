"""Utterances with the targets of a probe: symbols of a manifest key, or phones of an alignment."""

import os
from collections import Counter
from itertools import chain, combinations
from typing import NamedTuple

import numpy as np

from nemo_birq.data.json_lines import show
from nemo_birq.data.subset import draw_hours
from nemo_birq.evaluation.label_quality.alignments import (
    Alignments,
    check_alignments,
    name_phones,
    phones_at,
    read_labels,
)
from nemo_birq.evaluation.label_quality.phone_sets import phone_names
from nemo_birq.evaluation.label_quality.utterances import rows_by_name, utterance_name
from nemo_birq.evaluation.probing.tasks import CtcTask, FrameTask
from nemo_birq.extraction.data import SpeechData, open_data
from nemo_birq.modules.frame_times import FrameTimes

NAMES = ("train", "dev", "test")
MAX_LEFT_OUT = 0.5  # share of a set's phones that the training set may lack; above it, the sets name phones differently
SHOWN = 8  # phones in a message


class LabelledSet(NamedTuple):
    """Utterances of one set that are used."""

    data: SpeechData
    rows: list[int]
    """Numbers of the utterances in ``data``."""
    lines: list[dict]
    """Manifest lines of the utterances."""
    sequences: list[list[str]] | None
    """Symbols of each utterance, for CTC."""
    alignments: Alignments | None
    """For frames."""
    left_out: Counter[str]
    """Phones that the training set lacks, with their counts."""

    @property
    def symbols(self) -> Counter[str]:
        """Counts the symbols of the utterances, or the intervals of their phones."""
        if self.sequences is not None:
            return Counter(chain.from_iterable(self.sequences))
        used = (self.alignments.phones[utterance_name(line)] for line in self.lines)
        return Counter(item.symbol for items in used for item in items)

    @property
    def seconds(self) -> float:
        return float(self.data.durations[self.rows].sum())

    def targets(self, task: CtcTask | FrameTask, position: int, count: int, times: FrameTimes) -> np.ndarray:
        """Returns the targets of one utterance with ``count`` encoder frames as int64, see ``tasks``."""
        number = {symbol: i for i, symbol in enumerate(task.symbols)}
        if self.alignments is None:
            return np.array([number[symbol] for symbol in self.sequences[position]], dtype=np.int64)
        items = self.alignments.phones[utterance_name(self.lines[position])]
        return np.array([number.get(phone, -1) for phone in phones_at(items, times.middles(count))], dtype=np.int64)


def open_set(
    where: str, key: str, alignments: str | None, hours: float | None, sample_rate: int, name: str
) -> tuple[LabelledSet, list[str]]:
    """Opens a labelled set, and lists the symbols of all its utterances before ``hours`` of them are drawn.

    Phones keep the labels of the aligner, because their names depend on the labels of all sets.

    Args:
        where: manifest, or folder of shards.
        key: key of the manifest for CTC, with text or a (nested) list of phones.
        alignments: CTM file or folder of TextGrid files for phones of frames, in which case ``key`` is not used.
        hours: hours of audio to use, see ``draw_hours``.
        sample_rate: sample rate of the model, in Hz.
        name: name of the set, for messages.

    Raises:
        FileNotFoundError: see ``open_data`` and ``read_labels``.
        ValueError: there are no utterances, or some have no labels.
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
        raise ValueError(f"{name} set {where}: all its utterances are empty; name a set with texts or phones")
    rows = [rows[i] for i in draw_hours(data.durations[rows], hours)]
    chosen = [lines[row] for row in rows]
    texts = None if alignments is not None else [sequences[row] for row in rows]
    return LabelledSet(data, rows, chosen, texts, found, Counter()), sorted(symbols)


def _aligned(data: SpeechData, lines: list[dict], path: str) -> tuple[Alignments, list[int]]:
    """Reads the alignments and returns them with the rows of the utterances that have one."""
    rows = rows_by_name(data, lines)
    found = read_labels(path, set(rows))
    check_alignments(found.phones, dict(zip(rows, data.durations.tolist(), strict=True)))
    return found, [row for name, row in rows.items() if name in found.phones]


def _places(labelled: LabelledSet) -> set[tuple[str, str, float]]:
    """Returns the file or shard (all links resolved), member and start time of each utterance."""
    found, places = set(), list(labelled.data.places())
    for name, file, *_, start, _ in (places[row] for row in labelled.rows):
        path = os.path.realpath(file)
        found.add((path, path if name == file else name, start))
    return found


def _sequence(line: dict, key: str, where: str) -> list[str]:
    value = line.get(key)
    if isinstance(value, str):
        return list(" ".join(value.split()))
    if isinstance(value, list):
        flat = [phone for entry in value for phone in (entry if isinstance(entry, list) else [entry])]
        if all(isinstance(phone, str | int) and not isinstance(phone, bool) for phone in flat):
            return [str(phone) for phone in flat]
        raise ValueError(f"{where}: {line['audio_filepath']} has a symbol under {key!r} that is not text: {show(value)}")
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
        paths: paths by ``NAMES``.
        key, hours, sample_rate: see ``open_set``; ``hours`` limits only the training set.
        alignments: paths by ``NAMES``, or None for CTC.

    Raises:
        FileNotFoundError, ValueError: see ``open_set``; also if the training set lacks characters or most phones of another
            set, or if two sets have the same utterances.
    """
    sets, labels = {}, {}
    for name in NAMES:
        sets[name], labels[name] = open_set(
            paths[name], key, alignments and alignments[name], hours if name == "train" else None, sample_rate, name
        )
    is_text = alignments is None and all(isinstance(line[key], str) for line in sets["train"].lines)
    symbols = labels["train"]
    if not is_text:
        names = _name_phones(sets, labels)
        symbols = sorted({names[label] for label in symbols})
    for name in NAMES[1:]:
        if is_text and (foreign := sorted(set(labels[name]) - set(symbols))):
            raise ValueError(
                f"{name} set {paths[name]} has the symbols {foreign}, which the training set lacks: normalize both texts "
                "in the same way (case, digits, punctuation, Unicode form)"
            )
        if len(sets[name].rows) < 2:
            raise ValueError(f"{name} set {paths[name]} has only one usable utterance; name a larger set")
        sets[name] = _without_foreign(sets[name], set(symbols), f"{name} set {paths[name]}")
    _check_apart(sets)
    if alignments is not None:
        return sets, FrameTask(symbols)
    return sets, CtcTask(symbols, "CER" if is_text else "PER")


def _name_phones(sets: dict[str, LabelledSet], labels: dict[str, list[str]]) -> dict[str, str]:
    """Replaces labels by names of phones, which are the same in all sets; returns the name of each label."""
    aligned = [sets[name].alignments for name in NAMES]
    if None not in aligned:
        for name, named in zip(NAMES, name_phones(aligned), strict=True):
            sets[name] = sets[name]._replace(alignments=named)
        return phone_names(set().union(*(one.labels for one in aligned)))
    names = phone_names(set().union(*labels.values()))
    for name in NAMES:
        sequences = [[names[label] for label in sequence] for sequence in sets[name].sequences]
        sets[name] = sets[name]._replace(sequences=sequences)
    return names


def _without_foreign(labelled: LabelledSet, symbols: set[str], where: str) -> LabelledSet:
    """Leaves out the symbols that the training set lacks, and counts them; frames have no target there."""
    counts = labelled.symbols
    left_out = Counter({symbol: count for symbol, count in counts.items() if symbol not in symbols})
    if left_out.total() > MAX_LEFT_OUT * counts.total():
        raise ValueError(
            f"{where}: the training set lacks {left_out.total()} of its {counts.total()} phones ({describe(left_out)}). "
            f"The training set has {', '.join(sorted(symbols)[:SHOWN])}, ... Use sets that name phones in the same way"
        )
    sequences = labelled.sequences
    if left_out and sequences is not None:
        sequences = [[symbol for symbol in sequence if symbol in symbols] for sequence in sequences]
    return labelled._replace(sequences=sequences, left_out=left_out)


def describe(counts: Counter[str]) -> str:
    """Lists the most frequent phones with their counts."""
    listed = ", ".join(f"{symbol} {count} times" for symbol, count in counts.most_common(SHOWN))
    return listed + (f" and {len(counts) - SHOWN} others" if len(counts) > SHOWN else "")
