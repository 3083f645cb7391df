"""Errors of a hypothesis against its reference: the alignment with the fewest edits."""

from dataclasses import dataclass

import kaldialign

GAP = "\0"  # in no text
Pairs = list[tuple[str | None, str | None]]


@dataclass(frozen=True)
class Errors:
    """Counts of one utterance or of many."""

    units: int  # words, or characters, of the reference
    substitutions: int
    insertions: int
    deletions: int

    @property
    def total(self) -> int:
        return self.substitutions + self.insertions + self.deletions


def align(reference: list[str], hypothesis: list[str]) -> Pairs:
    """Pairs of (reference, hypothesis) symbols with the fewest edits; None where one of them has nothing."""
    return [
        (None if said == GAP else said, None if heard == GAP else heard)
        for said, heard in kaldialign.align(reference, hypothesis, GAP)
    ]


def count_errors(reference: str, hypothesis: str, characters: bool = False) -> Errors:
    """Errors in words, or in characters, of which the spaces between words are some, as NeMo and jiwer count them."""
    said, heard = (list(text) if characters else text.split() for text in (reference, hypothesis))
    found = kaldialign.edit_distance(said, heard)
    return Errors(len(said), found["sub"], found["ins"], found["del"])
