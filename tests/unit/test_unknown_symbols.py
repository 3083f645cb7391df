"""Symbols that a recognizer lacks, in dev and test sets on request, and the remedy for other Unicode forms."""

import unicodedata
from pathlib import Path

import pytest

from nemo_birq.finetuning.preparation import prepare
from nemo_birq.finetuning.transcripts import Transcript, check_covered
from nemo_birq.finetuning.vocabulary import characters
from tests.helpers.finetuning import config
from tests.helpers.paths import CORPUS
from tests.helpers.shards import write_lines

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


# --- in a configuration -----------------------------------------------------------------------------------------------


@pytest.fixture
def manifests(tmp_path) -> dict[str, str]:
    audio = sorted((CORPUS / "test" / "audio").iterdir())[0]
    line = {"audio_filepath": str(audio), "duration": 2.8}
    texts = {"plain": "all good", "quoted": "it said q²"}
    return {name: str(write_lines(tmp_path / f"{name}.json", line | {"text": text})) for name, text in texts.items()}


def test_dev_and_test_sets_may_have_them_on_request(nemo, tmp_path, manifests):
    odd = [f"model.validation_ds.manifest_filepath={manifests['quoted']}", f"test_manifests=[{manifests['quoted']}]"]
    with pytest.raises(ValueError, match=r"quoted\.json has characters .*'²' 1 times"):
        prepare(config("ctc_char", nemo, tmp_path, *odd))
    _, tests = prepare(config("ctc_char", nemo, tmp_path, *odd, "allow_unknown_symbols=true"))
    assert [test.name for test in tests] == ["quoted"]
    training = f"model.train_ds.manifest_filepath={manifests['quoted']}"
    with pytest.raises(ValueError, match=r"quoted\.json has characters"):
        prepare(config("ctc_char", nemo, tmp_path, training, "allow_unknown_symbols=true"))


@pytest.mark.parametrize("node", ["train_ds", "validation_ds"])
def test_byte_order_marks_are_named_before_nemo_reads(nemo, tmp_path, manifests, node):
    marked = tmp_path / "marked.json"
    marked.write_bytes(b"\xef\xbb\xbf" + Path(manifests["plain"]).read_bytes())
    with pytest.raises(ValueError, match=r"marked\.json begins with a byte order mark"):
        prepare(config("ctc_char", nemo, tmp_path, f"model.{node}.manifest_filepath={marked}"))
    _, (test,) = prepare(config("ctc_char", nemo, tmp_path, f"test_manifests=[{marked}]"))
    assert test.lines[0]["text"] == "all good"
