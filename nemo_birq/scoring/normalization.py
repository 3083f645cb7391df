"""Normalization of references and hypotheses before they are compared."""

import re
import sys
import unicodedata
from dataclasses import dataclass

from nemo.collections.asr.parts.utils.transcribe_utils import PunctuationCapitalization

APOSTROPHE = "'"  # a part of words, as in don't
APOSTROPHES = APOSTROPHE + "\u2019\u2018\u02bc"  # the same character on keyboards of several languages
PUNCTUATION = "".join(
    sign for sign in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(sign)[0] == "P" and sign != APOSTROPHE
)
STEPS = {
    "default": [
        "Unicode form NFKC, typographic apostrophes to '",
        "lower case",
        "punctuation but the apostrophe to a space",
        "runs of whitespace to one space, none at the ends",
    ],
    "none": ["runs of whitespace to one space, none at the ends"],
}
_marks = PunctuationCapitalization(re.escape(PUNCTUATION))


@dataclass(frozen=True)
class Normalized:
    """Texts after normalization, and the number of changed texts."""

    texts: list[str]
    changed: int


def plain_apostrophes(text: str) -> str:
    """Replaces typographic apostrophes in a text by '."""
    return text.translate(dict.fromkeys(map(ord, APOSTROPHES), APOSTROPHE))


def normalize(texts: list[str], way: str = "default") -> Normalized:
    """Applies the steps of one entry of ``STEPS`` to each text.

    Raises:
        ValueError: there is no such entry.
    """
    if way not in STEPS:
        raise ValueError(f"normalization {way!r} is unknown: give one of {', '.join(STEPS)}")
    found = texts
    if way == "default":
        found = [plain_apostrophes(unicodedata.normalize("NFKC", text)) for text in found]
        found = _marks.rm_punctuation(_marks.do_lowercase(found))
    found = [" ".join(text.split()) for text in found]
    return Normalized(found, sum(new != old for new, old in zip(found, texts, strict=True)))
