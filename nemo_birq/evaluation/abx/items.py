"""Items of ABX: phones with their neighbours, their speaker and their frames, from alignments."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from lhotse.supervision import AlignmentItem

from nemo_birq.evaluation.label_quality.phone_sets import SILENCE
from nemo_birq.evaluation.label_quality.utterances import utterance_name
from nemo_birq.evaluation.probing.data import LabelledSet
from nemo_birq.evaluation.probing.representations import Represented

TRIPHONE, PHONE = "triphone", "phone"
UNITS = (TRIPHONE, PHONE)
PHONE_COLUMN, PREVIOUS, NEXT, SPEAKER = "#phone", "prev-phone", "next-phone", "speaker"
"""Columns of the item files of ZeroSpeech."""
LARGEST_GAP = 0.02
"""Seconds between neighbouring phones of a triphone, at most."""


class Items(NamedTuple):
    """Items of a set, in the order of its utterances."""

    spans: list[tuple[int, int]]
    """First frame of each item and the one after its last, in the frames of all utterances one after the other."""
    labels: dict[str, list[str]]
    """Phone, previous and next phone, and speaker of each item, by the names of ZeroSpeech's columns."""
    too_short: int
    """Items that hold the middle of no frame and are left out."""


def check_speakers(labelled: LabelledSet, name: str) -> str | None:
    """Returns why a set has no speakers to compare within and across, or None."""
    without = sum(not line.get(SPEAKER) for line in labelled.lines)
    return f"{without} lines of the {name} set have no {SPEAKER!r}" if without else None


def find_items(outputs: Represented, labelled: LabelledSet, unit: str) -> Items:
    """Finds the items of the utterances that were read.

    Args:
        outputs: representations, which give the order of utterances and their frames.
        labelled: the set with alignments; each line has a speaker.
        unit: ``triphone``: an item lasts from the start of the previous phone to the end of the next one, and none of the
            three is silence. ``phone``: it is the phone alone, and its neighbours may be silence.
    """
    lines = dict(zip(labelled.rows, labelled.lines, strict=True))
    spans, columns, too_short, start = [], [], 0, 0
    for row, count in zip(outputs.rows, outputs.counts, strict=True):
        if row in lines:
            middles = outputs.times.middles(count)
            for before, phone, after in _contexts(labelled.alignments.phones[utterance_name(lines[row])], unit):
                begin, end = (before.start, after.end) if unit == TRIPHONE else (phone.start, phone.end)
                first, last = np.searchsorted(middles, (begin, end), side="left")
                if first == last:
                    too_short += 1
                    continue
                spans.append((start + int(first), start + int(last)))
                columns.append((phone.symbol, before.symbol, after.symbol, str(lines[row][SPEAKER])))
        start += count
    names = (PHONE_COLUMN, PREVIOUS, NEXT, SPEAKER)
    return Items(spans, {name: [values[i] for values in columns] for i, name in enumerate(names)}, too_short)


def _contexts(items: list[AlignmentItem], unit: str) -> Iterator[tuple[AlignmentItem, AlignmentItem, AlignmentItem]]:
    for before, phone, after in zip(items, items[1:], items[2:], strict=False):
        spoken = (before, phone, after) if unit == TRIPHONE else (phone,)
        touching = phone.start - before.end <= LARGEST_GAP and after.start - phone.end <= LARGEST_GAP
        if touching and all(item.symbol != SILENCE for item in spoken):
            yield before, phone, after
