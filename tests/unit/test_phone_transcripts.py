"""Texts of phones: a letter for each phone, which NeMo's parsers keep."""

import pytest
from nemo.collections.common.parts.preprocessing.parsers import make_parser
from omegaconf import OmegaConf

from benchmarks.phone_transcripts import LETTER_OF, LETTERS, PHONES, spell
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.unit


def test_every_phone_has_its_own_letter_that_the_parser_keeps():
    assert len(set(LETTERS)) == len(PHONES.split()) == 39
    assert make_parser(list(LETTERS), name="base")(LETTERS) == list(range(39))


def test_stress_and_words_are_left_out():
    assert spell([["M", "AY0", "K"], ["AY1"]]) == "".join(LETTER_OF[phone] for phone in ("M", "AY", "K", "AY"))


def test_the_budget_has_these_letters():
    [labels] = [
        value.partition("=")[2]
        for value in OmegaConf.load(ROOT / "conf/experiments/cpu_phones.yaml").finetune.overrides
        if value.startswith("model.labels=")
    ]
    assert labels.strip("[]").replace("'", "").split(",") == list(LETTERS)
