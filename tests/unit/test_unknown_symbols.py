"""Symbols that a recognizer lacks: in dev and test sets on request, and what to do about those of other Unicode forms."""

import unicodedata

import pytest

from nemo_birq.finetuning.transcripts import Transcript, check_covered
from nemo_birq.finetuning.vocabulary import characters

pytestmark = pytest.mark.unit

LETTERS = characters([" ", *"abcdefghijklmnoprstuvwxyzé", "'"])  # without q


def check(*texts, allowed=False):
    transcripts = [Transcript(f"{i}.wav", text, 1.0) for i, text in enumerate(texts)]
    check_covered(transcripts, LETTERS.unknown, "dev.json", LETTERS.name, allowed)


def refusal(*texts) -> str:
    with pytest.raises(ValueError) as caught:
        check(*texts)
    return str(caught.value)


def test_allowed_symbols_are_counted():
    assert "'q' 2 times" in refusal("quick", "a q")
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr("nemo_birq.finetuning.transcripts.logging.warning", said.append)
        check("quick", "a q", "fine", allowed=True)
        check("fine", allowed=True)
    (warning,) = said
    assert "dev.json" in warning and "'q' 2 times" in warning and "2 of 3 texts" in warning


def test_advice_for_other_unicode_forms():
    decomposed = unicodedata.normalize("NFD", "café")
    assert "Unicode form NFC" in refusal(decomposed) and "Unicode form" not in refusal("quick")
    check(unicodedata.normalize("NFC", decomposed))
    for sign in "\u2019\u2018\u02bc":
        assert "Write apostrophes as ' (U+0027)." in refusal(f"don{sign}t")
    assert "apostrophes" not in refusal("quick")
