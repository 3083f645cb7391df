"""Language models as other tools write them: line ends, byte order marks, one order only; and apostrophes of all kinds."""

from types import SimpleNamespace

import pytest

from nemo_birq.scoring.arpa import decodable, read_arpa
from nemo_birq.scoring.beam_search import TokenBeamSearch, WordBeamSearch, open_beam_search, spell
from nemo_birq.scoring.eval_sets import unwritable
from nemo_birq.scoring.normalization import normalize
from nemo_birq.scoring.tokens import token_ids
from tests.helpers.scoring_models import certain, make_ctc, write_tokens, write_words

pytestmark = pytest.mark.unit

FORMS = {
    "line feeds": lambda text: text.encode(),
    "carriage returns": lambda text: text.replace("\n", "\r\n").encode(),
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
}
UNIGRAMS = "\\data\\\nngram 1={count}\n\n\\1-grams:\n{lines}\n\n\\end\\\n"


def unigrams(*symbols: str) -> str:
    lines = ["-99\t<s>", "-1.0\t</s>", "-1.0\t<unk>", *(f"-0.{i + 1}\t{symbol}" for i, symbol in enumerate(symbols))]
    return UNIGRAMS.format(count=len(lines), lines="\n".join(lines))


@pytest.fixture(scope="module")
def model():
    return make_ctc()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_forms_are_read_alike(tmp_path, model, form):
    text = write_tokens(tmp_path / "lm.arpa", [[1, 2], [1, 3], [1, 2]], order=2).read_text()
    (tmp_path / "lm.arpa").write_bytes(form(text))
    assert read_arpa(tmp_path / "lm.arpa").symbols == ["e", "f", "g"]
    search = open_beam_search(tmp_path / "lm.arpa", model)
    assert isinstance(search, TokenBeamSearch)
    # The audio does not tell "ab" from "ac"; the language model has seen "ab" twice.
    frames = certain([{1: 0.98}, {2: 0.49, 3: 0.49}], 29)
    assert search.decode([frames]) == ["ab"]


def test_unigrams_predict_what_they_say(tmp_path, model):
    path = tmp_path / "lm.arpa"
    path.write_text(unigrams(chr(101), chr(102), chr(103)))
    frames = certain([{2: 0.49, 3: 0.49}], 29)
    assert open_beam_search(path, model).decode([frames]) == ["b"]
    path.write_text(unigrams(chr(101), chr(103), chr(102)))
    assert open_beam_search(path, model).decode([frames]) == ["c"]
    with decodable(read_arpa(path)) as file:
        assert "\\2-grams:\n-1.0\t<s> </s>\n" in file.path.read_text() and read_arpa(file.path).order == 2
    assert not file.path.exists() and path.read_text() == unigrams(chr(101), chr(103), chr(102))


def test_words_from_windows_and_of_one_order(tmp_path, model):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    text = write_words(tmp_path / "lm.arpa", ["it is", "it was"]).read_text()
    for content in (FORMS["byte order mark"](text), unigrams("it", "is", "was").encode()):
        (tmp_path / "lm.arpa").write_bytes(content)
        assert isinstance(open_beam_search(tmp_path / "lm.arpa", model), WordBeamSearch)


def test_a_word_that_is_there_twice(tmp_path):
    (tmp_path / "lm.arpa").write_text(unigrams("are", "we", "are"))
    with pytest.raises(ValueError, match=r"lm\.arpa has the 1-gram 'are' 2 times"):
        read_arpa(tmp_path / "lm.arpa")


# --- apostrophes ------------------------------------------------------------------------------------------------------

SIGNS = "'\u2019\u2018\u02bc"


def test_apostrophes_are_one_sign_for_scores():
    assert normalize([f"Don{sign}t" for sign in SIGNS]).texts == ["don't"] * 4


@pytest.mark.parametrize("sign", SIGNS)
def test_apostrophes_of_a_vocabulary(sign):
    """Models of other languages write the apostrophe as U+2019 or U+02BC."""
    labels = [" ", *"dont", sign]
    recognizer = SimpleNamespace(decoder=SimpleNamespace(vocabulary=labels))
    assert not unwritable(recognizer, normalize([f"don{other}t" for other in SIGNS]).texts)
    assert all(token_ids(recognizer, f"n{other}t") == [3, 5, 4] for other in SIGNS)
    arpa = SimpleNamespace(symbols=[f"n{other}t" for other in SIGNS], path="lm.arpa")
    assert list(spell(arpa, recognizer).values()) == [["n", sign, "t"]] * 4
    without = SimpleNamespace(decoder=SimpleNamespace(vocabulary=[" ", *"dont"]))
    assert unwritable(without, ["don't"]) == {"'": 1}
