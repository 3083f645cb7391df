"""Errors of a hypothesis against its reference, from the alignment with the fewest edits."""

from dataclasses import dataclass

import kaldialign

GAP = "\0"  # occurs in no text
Pairs = list[tuple[str | None, str | None]]


@dataclass(frozen=True)
class Errors:
    """Counts of errors of one or several utterances."""

    units: int  # number of words, or characters, of the reference
    substitutions: int
    insertions: int
    deletions: int

    @property
    def total(self) -> int:
        return self.substitutions + self.insertions + self.deletions


def align(reference: list[str], hypothesis: list[str]) -> Pairs:
    """Aligns symbols with the fewest edits: pairs of (reference, hypothesis), with None for insertions and deletions."""
    pairs = kaldialign.align(reference, hypothesis, GAP)
    return [tuple(None if symbol == GAP else symbol for symbol in pair) for pair in pairs]


def count_errors(reference: str, hypothesis: str, characters: bool = False) -> Errors:
    """Counts errors in words, or in characters including the spaces between words, as NeMo and jiwer do."""
    symbols = [list(text) if characters else text.split() for text in (reference, hypothesis)]
    found = kaldialign.edit_distance(*symbols)
    return Errors(len(symbols[0]), found["sub"], found["ins"], found["del"])
