"""Phone and word times of utterances, from a CTM file or a folder of TextGrid files."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from lhotse.supervision import AlignmentItem
from nemo.utils import logging
from praatio import textgrid
from rich.progress import track

from nemo_birq.utils.terminal import printable

SILENCE = "SIL"
SILENCES = {"", "SIL", "SP", "SPN", "<EPS>"}  # as aligners name silence, in upper case
VOWELS = {"AA", "AE", "AH", "AO", "AW", "AX", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"}
CONSONANTS = {"B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH"}
CONSONANTS |= {"V", "W", "Y", "Z", "ZH"}
ARPABET = VOWELS | CONSONANTS | {SILENCE}

MIN_COVERAGE = 0.5  # of the audio, by intervals; below that the alignments belong to something else
LATE = 0.1  # seconds by which an alignment may outlast its audio


class Alignments(NamedTuple):
    """Intervals in seconds from the beginning of the audio, by utterance."""

    phones: dict[str, list[AlignmentItem]]
    """Named as in ``ARPABET`` where the aligner did, without stress and position in the word; silence is ``SILENCE``."""
    words: dict[str, list[AlignmentItem]]
    """Empty where the alignments name no words."""
    available: int
    """Number of utterances in the alignments, wanted or not."""


def read_alignments(path: str | Path, wanted: set[str]) -> Alignments:
    """Reads the alignments of the wanted utterances that have one.

    Args:
        path: a CTM file with phones, or a folder with ``<utterance>.TextGrid`` in it or in folders below, with a tier
            ``phones`` and perhaps ``words``, as the Montreal Forced Aligner writes them.
        wanted: names of utterances: those of their audio files, without suffix.

    Raises:
        FileNotFoundError: no such file or folder, or no TextGrid in it.
        ValueError: a file that is not what it should be; or none of the wanted utterances is there.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"alignments {path} do not exist: name a CTM file, or a folder of TextGrid files")
    found = _read_textgrids(path, wanted) if path.is_dir() else _read_ctm(path, wanted)
    if not found.phones:
        raise ValueError(
            f"alignments {path} hold {found.available} utterances, none of which is in the manifest, which has for example "
            f"{min(wanted)}. An utterance is named like its audio file, without suffix"
        )
    return found


def phone_name(label: str) -> str:
    """Maps ``AH0``, ``AH1_B`` to ``AH``; ``sp``, ``spn``, ``<eps>`` and the empty label to ``SILENCE``; keeps all others."""
    bare = re.sub(r"(?<=[A-Z])[012]$", "", re.sub(r"_[BIES]$", "", label.strip().upper()))
    if bare in SILENCES:
        return SILENCE
    return bare if bare in ARPABET else label.strip()


def _read_ctm(path: Path, wanted: set[str]) -> Alignments:
    """Reads lines ``utterance channel start duration phone [confidence]``, in any order."""
    phones: dict[str, list[AlignmentItem]] = {}
    names = set()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"alignments {path} are not UTF-8 text ({error}): name a CTM file or a folder") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(";;"):
            continue
        try:
            name, _, start, duration, label = line.split()[:5]
            item = AlignmentItem(phone_name(label), float(start), float(duration))
        except ValueError as error:
            raise ValueError(
                f"alignments {path}, line {number}: {line!r} is not `utterance channel start duration phone`"
            ) from error
        names.add(name)
        if name in wanted:
            phones.setdefault(name, []).append(item)
    return Alignments({name: _in_order(items, f"{path}: {name}") for name, items in phones.items()}, {}, len(names))


def _read_textgrids(folder: Path, wanted: set[str]) -> Alignments:
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.TextGrid")):
        if path.stem in files:
            raise ValueError(f"alignments: {files[path.stem]} and {path} are of the same utterance; remove one")
        files[path.stem] = path
    if not files:
        raise FileNotFoundError(f"alignments {folder}: there is no .TextGrid file in this folder or below")
    phones, words = {}, {}
    names = sorted(wanted & files.keys())
    for name in track(names, "reading TextGrids", transient=True, disable=len(names) < 100):
        phones[name], words[name] = _read_textgrid(files[name])
    return Alignments(phones, {name: items for name, items in words.items() if items}, len(files))


def _read_textgrid(path: Path) -> tuple[list[AlignmentItem], list[AlignmentItem]]:
    """Reads phones and words of one file; a tier is named ``phones`` or, with a speaker, ``speaker - phones``."""
    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True)
    except OSError as error:
        raise ValueError(f"alignments: {path} cannot be opened ({error})") from error
    except Exception as error:  # praatio takes apart what it finds, and what is damaged leads to errors of any type
        raise ValueError(f"alignments: {path} is not a readable TextGrid ({type(error).__name__}: {error})") from error
    tiers = {}
    for wanted in ("phones", "words"):
        tiers[wanted] = [name for name in grid.tierNames if re.fullmatch(rf"(.* - )?{wanted}", name)]
    if len(tiers["phones"]) != 1:
        raise ValueError(f"alignments: {path} must have one tier `phones`; it has {list(grid.tierNames)}")
    phones = _in_order((_item(entry, phone_name(entry.label)) for entry in grid.getTier(tiers["phones"][0]).entries), path)
    spoken = grid.getTier(tiers["words"][0]).entries if tiers["words"] else ()
    words = [_item(entry, entry.label) for entry in spoken if entry.label.strip().upper() not in SILENCES]
    return phones, words


def _item(entry: textgrid.constants.Interval, label: str) -> AlignmentItem:
    return AlignmentItem(label, entry.start, entry.end - entry.start)


def _in_order(items, where: object) -> list[AlignmentItem]:
    items = sorted(items, key=lambda item: item.start)
    for item in items:
        if not (item.start >= 0 and item.duration >= 0):  # also not a number
            raise ValueError(f"alignments {where} has an interval from {item.start} s that lasts {item.duration} s")
    return items


def phones_at(items: list[AlignmentItem], times: np.ndarray) -> list[str | None]:
    """Finds the phone at each time (seconds), None outside all intervals. An interval has its start, but not its end."""
    # In whole microseconds, so that 0.1 + 0.2 is not after 0.3.
    starts, ends = np.rint(1e6 * np.array([(item.start, item.end) for item in items])).T
    times = np.rint(1e6 * times)
    last = np.searchsorted(starts, times, side="right") - 1
    return [items[i].symbol if i >= 0 and time < ends[i] else None for i, time in zip(last, times, strict=True)]


def check_alignments(phones: dict[str, list[AlignmentItem]], durations: dict[str, float]) -> float:
    """Checks that alignments and audio belong together; returns the share of the audio that lies in intervals.

    Args:
        phones: intervals of each utterance.
        durations: seconds of each utterance, of more utterances perhaps.

    Raises:
        ValueError: less than ``MIN_COVERAGE`` is covered, or most alignments outlast their audio.
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
            raise ValueError(f"{message}. Are their times in seconds, and are they of this audio?")
        logging.warning(printable(message))
    total = sum(durations[name] for name in phones)
    share = sum(covered[name] * durations[name] for name in phones) / total
    if share < MIN_COVERAGE:
        name = min(covered, key=covered.get)
        raise ValueError(
            f"the alignments cover {share:.0%} of the audio ({name}: {covered[name]:.0%}), at least {MIN_COVERAGE:.0%} is "
            "needed. Are their times in seconds, and are they of this audio?"
        )
    return share


def unknown_phones(phones: dict[str, list[AlignmentItem]]) -> list[str]:
    """Lists the symbols that are not in ``ARPABET``; they count as phones like any other."""
    return sorted({item.symbol for items in phones.values() for item in items} - ARPABET)
