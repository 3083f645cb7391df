"""Phone and word times of utterances, from a CTM file or a folder of TextGrid files."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from lhotse.supervision import AlignmentItem
from nemo.utils import logging
from rich.progress import track

from nemo_birq.evaluation.label_quality.phone_sets import ARPABET, SILENCES, phone_names
from nemo_birq.evaluation.label_quality.textgrids import ROUNDING, Interval, check_overlap, find_textgrids, read_tiers
from nemo_birq.utils.terminal import printable
from nemo_birq.utils.text_files import read_text

MIN_COVERAGE = 0.5  # share of the audio in intervals, below which the alignments must belong to other audio
LEAST_SECONDS = 1e-6  # phones_at compares whole microseconds
LATE = 0.1  # seconds by which an alignment may be longer than its audio


class Alignments(NamedTuple):
    """Intervals in seconds from the beginning of the audio, by utterance."""

    phones: dict[str, list[AlignmentItem]]
    """Named by ``phone_names``: ARPAbet without stress and position in the word, other sets as the aligner wrote them."""
    words: dict[str, list[AlignmentItem]]
    """Empty if the alignments have no words."""
    names: set[str]
    """Names of all utterances in the alignments, including those that were not wanted."""
    labels: frozenset[str] = frozenset()
    """Labels of the phones that were read, as the aligner wrote them."""

    @property
    def available(self) -> int:
        """Number of all utterances in the alignments."""
        return len(self.names)


def read_alignments(path: str | Path, wanted: set[str]) -> Alignments:
    """Reads the alignments of the wanted utterances that have one.

    Args:
        path: a CTM file with phones, or a folder with ``<utterance>.TextGrid`` at any depth, with a tier ``phones`` and
            perhaps ``words``, as the Montreal Forced Aligner writes them.
        wanted: names of utterances, which are those of their audio files without suffix.

    Raises:
        FileNotFoundError: the file or folder does not exist, or the folder has no TextGrid file.
        ValueError: a file is not valid, or the alignments have none of the wanted utterances.
    """
    return name_phones([read_labels(path, wanted)])[0]


def read_labels(path: str | Path, wanted: set[str]) -> Alignments:
    """Reads alignments with the labels of the aligner, for ``name_phones``; arguments and errors as ``read_alignments``."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"alignments {path} do not exist: name a CTM file, or a folder of TextGrid files")
    found = _read_textgrids(path, wanted) if path.is_dir() else _read_ctm(path, wanted)
    if not found.phones:
        raise ValueError(
            f"alignments {path} have {found.available} utterances, none of which is in the manifest, which has for example "
            f"{min(wanted)}. Name each utterance like its audio file, without suffix"
        )
    return found


def name_phones(read: Sequence[Alignments]) -> list[Alignments]:
    """Names the phones of several alignments with one phone set, such as those of a training and a test set."""
    names = phone_names(set().union(*(one.labels for one in read)))
    return [
        one._replace(
            phones={
                utterance: [item._replace(symbol=names[item.symbol]) for item in items]
                for utterance, items in one.phones.items()
            }
        )
        for one in read
    ]


def _read_ctm(path: Path, wanted: set[str]) -> Alignments:
    """Reads lines ``utterance channel start duration phone [confidence]``, in any order."""
    phones: dict[str, list[AlignmentItem]] = {}
    names, labels = set(), set()
    try:
        lines = read_text(path).splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"alignments {path} are not UTF-8 text ({error}): name a CTM file or a folder") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(";;"):
            continue
        try:
            name, _, start, duration, label = line.split()[:5]
            item = AlignmentItem(label, float(start), float(duration))
        except ValueError as error:
            raise ValueError(
                f"alignments {path}, line {number}: {line!r} is not `utterance channel start duration phone`"
            ) from error
        names.add(name)
        labels.add(label)
        if name in wanted:
            phones.setdefault(name, []).append(item)
    phones = {name: _in_order(items, f"{path}: {name}") for name, items in phones.items()}
    return Alignments(phones, {}, names, frozenset(labels))


def _read_textgrids(folder: Path, wanted: set[str]) -> Alignments:
    files: dict[str, Path] = {}
    for path in find_textgrids(folder):
        if path.stem in files:
            raise ValueError(f"alignments: {files[path.stem]} and {path} are of the same utterance; remove one")
        files[path.stem] = path
    if not files:
        raise FileNotFoundError(f"alignments {folder}: this folder has no .TextGrid file at any depth")
    phones, words = {}, {}
    names = sorted(wanted & files.keys())
    for name in track(names, "reading TextGrids", transient=True, disable=len(names) < 100):
        phones[name], words[name] = _read_textgrid(files[name])
    labels = frozenset(item.symbol for items in phones.values() for item in items)
    return Alignments(phones, {name: items for name, items in words.items() if items}, set(files), labels)


def _read_textgrid(path: Path) -> tuple[list[AlignmentItem], list[AlignmentItem]]:
    """Reads phones and words of one file; a tier is named ``phones`` or, with a speaker, ``speaker - phones``."""
    tiers = read_tiers(path)
    phones, words = (
        [tier for name, tier in tiers if re.fullmatch(rf"(.* - )?{kind}", name)] for kind in ("phones", "words")
    )
    if len(phones) != 1:
        raise ValueError(f"alignments: {path} must have one tier `phones`; it has {[name for name, _ in tiers]}")
    check_overlap(path, phones[0])
    spoken = [interval for interval in (words[0] if words else []) if interval.label.strip().upper() not in SILENCES]
    return _in_order(map(_item, phones[0]), path), _in_order(map(_item, spoken), path)


def _item(interval: Interval) -> AlignmentItem:
    return AlignmentItem(interval.label, interval.start, interval.end - interval.start)


def _in_order(items: Iterable[AlignmentItem], where: object) -> list[AlignmentItem]:
    """Sorts intervals, and leaves out those without a duration, which have no frame."""
    items = sorted(items, key=lambda item: item.start)
    for item in items:
        if not (item.start >= 0 and item.duration >= -ROUNDING):  # also not a number
            raise ValueError(f"alignments {where} has an interval from {item.start} s that lasts {item.duration} s")
    return [item for item in items if item.duration > LEAST_SECONDS]


def phones_at(items: list[AlignmentItem], times: np.ndarray) -> list[str | None]:
    """Finds the phone at each time in seconds; None outside of all intervals. An interval does not include its end."""
    if not items:
        return [None] * len(times)
    # In whole microseconds, so that 0.1 + 0.2 is not after 0.3.
    starts, ends = np.rint(1e6 * np.array([(item.start, item.end) for item in items])).T
    times = np.rint(1e6 * times)
    last = np.searchsorted(starts, times, side="right") - 1
    return [items[i].symbol if i >= 0 and time < ends[i] else None for i, time in zip(last, times, strict=True)]


def check_alignments(phones: dict[str, list[AlignmentItem]], durations: dict[str, float]) -> float:
    """Checks that alignments and audio belong together; returns the share of the audio in intervals.

    Args:
        phones: intervals of each utterance.
        durations: seconds of each utterance, and perhaps of others.

    Raises:
        ValueError: less than ``MIN_COVERAGE`` is covered, or most alignments are longer than their audio.
    """
    covered = {
        name: sum(max(0.0, min(item.end, durations[name]) - item.start) for item in items) / durations[name]
        for name, items in phones.items()
    }
    late = {name: items[-1].end for name, items in phones.items() if items and items[-1].end > durations[name] + LATE}
    if late:
        name, end = max(late.items(), key=lambda pair: pair[1])
        example = f"{name} at {end:.2f} s of {durations[name]:.2f} s"
        message = f"{len(late)} of {len(phones)} alignments end after their audio, {example}"
        if len(late) > len(phones) / 2:
            raise ValueError(f"{message}. Check that their times are in seconds, and that they belong to this audio")
        logging.warning(printable(message))
    total = sum(durations[name] for name in phones)
    share = sum(covered[name] * durations[name] for name in phones) / total
    if share < MIN_COVERAGE:
        name = min(covered, key=covered.get)
        raise ValueError(
            f"the alignments cover {share:.0%} of the audio ({name}: {covered[name]:.0%}), but at least {MIN_COVERAGE:.0%} "
            "is needed. Check that their times are in seconds, and that they belong to this audio"
        )
    return share


def unknown_phones(phones: dict[str, list[AlignmentItem]]) -> list[str]:
    """Lists the symbols that are not in ``ARPABET``, which count as phones like any other."""
    return sorted({item.symbol for items in phones.values() for item in items} - ARPABET)
