"""Beam search with n-gram language models: probabilities, decoding, and refused files."""

import gzip
import math
import sys
from pathlib import Path

import pytest
import torch
from nemo.collections.asr.parts.submodules.ngram_lm import NGramGPULanguageModel

from nemo_birq.scoring.arpa import read_arpa
from nemo_birq.scoring.beam_search import TokenBeamSearch, WordBeamSearch, open_beam_search, spell
from nemo_birq.scoring.ngram_estimation import estimate, write_arpa
from nemo_birq.scoring.tokens import token_ids, vocabulary
from nemo_birq.scoring.tuning import Trial, at_the_edge, best, tune
from tests.helpers.scoring_models import LABELS, certain, make_bpe_ctc, make_ctc, write_tokens, write_words

pytestmark = pytest.mark.unit

BLANK = len(LABELS)
PLACE = {sign: place for place, sign in enumerate(LABELS)}
needs_flashlight = pytest.mark.skipif(
    sys.platform != "linux" or sys.version_info >= (3, 13), reason="flashlight-text has wheels for Linux only"
)


@pytest.fixture(scope="module")
def ctc():
    return make_ctc()


def probability(model, word: str, history: tuple[str, ...]) -> float:
    """Returns p(word | history) by an independent implementation of the rule for back-off models."""
    history = history[len(history) - len(model) + 1 :] if len(history) >= len(model) else history
    if (*history, word) in model[len(history)]:
        return model[len(history)][(*history, word)][0]
    back_off = model[len(history) - 1].get(history, (0, 1.0))[1]
    return back_off * probability(model, word, history[1:]) if history else model[0]["<unk>",][0]


def sentence_log(model, words: list[str]) -> float:
    padded = ["<s>", *words, "</s>"]
    return sum(math.log(probability(model, word, tuple(padded[:i]))) for i, word in enumerate(padded) if i)


def test_witten_bell_by_hand():
    """a b, a c: 6 symbols to predict of 4 kinds (a, b, c, </s>), 5 with <unk>."""
    model = estimate([["a", "b"], ["a", "c"]], 2)
    a = (2 + 4 / 5) / (6 + 4)
    b = (1 + 4 / 5) / (6 + 4)
    assert model[0]["a",][0] == pytest.approx(a) and model[0]["b",][0] == pytest.approx(b)
    assert model[0]["<unk>",][0] == pytest.approx(4 / 5 / 10)
    assert model[1]["a", "b"][0] == pytest.approx((1 + 2 * b) / (2 + 2))
    assert model[0]["a",][1] == pytest.approx(2 / 4)
    assert probability(model, "a", ("a",)) == pytest.approx(2 / 4 * a)


def test_probabilities_sum_to_one():
    text = "the cat sat on the mat . the dog sat on the log . a cat and a dog sat"
    model = estimate([sentence.split() for sentence in text.split(" . ")], 3)
    words = [word for (word,) in model[0] if word != "<s>"]
    for history in [(), ("the",), ("<s>", "the"), ("on", "the"), ("the", "sat"), ("dog", "mat"), ("never",)]:
        assert sum(probability(model, word, history) for word in words) == pytest.approx(1), history
    with pytest.raises(ValueError, match=r"\bsentence\b"):
        estimate([], 2)
    with pytest.raises(ValueError, match="order=1"):
        estimate([["a"]], 1)


def test_nemo_reads_the_same_probabilities(tmp_path):
    sentences = [[0, 3, 1], [2, 2, 1, 0], [0, 3]]
    path = write_tokens(tmp_path / "tokens.arpa", sentences)
    model = estimate([[chr(100 + token) for token in sentence] for sentence in sentences], 3)
    nemo = NGramGPULanguageModel.from_file(path, vocab_size=6)
    for sentence in ([0, 3, 1], [2, 3], [1, 1, 1, 1], [0, 3, 2, 2]):
        found = nemo(torch.tensor([sentence]), bos=True, eos=True).sum().item()
        assert found == pytest.approx(sentence_log(model, [chr(100 + token) for token in sentence]), abs=1e-4)


def test_tokens_turn_where_the_language_model_outweighs_the_audio(ctc, tmp_path):
    """One frame, a 0.55 and b 0.45: b wins from alpha = ln(0.55 / 0.45) / (ln p(b) - ln p(a)) on; natural logarithms."""
    a, b = PLACE["a"], PLACE["b"]
    sentences = [[b]] * 3 + [[a]]
    search = open_beam_search(write_tokens(tmp_path / "tokens.arpa", sentences), ctc)
    assert isinstance(search, TokenBeamSearch)
    model = estimate([[chr(100 + token) for token in sentence] for sentence in sentences], 3)
    gain = sentence_log(model, [chr(100 + b)]) - sentence_log(model, [chr(100 + a)])
    threshold = math.log(0.55 / 0.45) / gain
    audio = certain([{a: 0.55, b: 0.45}], BLANK + 1)
    for alpha, wanted in ((0, "a"), (0.97 * threshold, "a"), (1.03 * threshold, "b")):
        search.set_weights(alpha, 0)
        assert search.decode([audio]) == [wanted]
    unsure = certain([{a: 0.3, BLANK: 0.7}], BLANK + 1)  # beta is for each token
    for beta, wanted in ((0.8, ""), (0.9, "a")):  # ln(0.7 / 0.3) = 0.847
        search.set_weights(0, beta)
        assert search.decode([unsure]) == [wanted]


@needs_flashlight
def test_words_turn_where_the_language_model_outweighs_the_audio(ctc, tmp_path):
    """The same over words, c or b before "at"; logarithms to base 10."""
    sentences = ["bat"] * 3 + ["cat", "a hat"]
    search = open_beam_search(write_words(tmp_path / "words.arpa", sentences), ctc)
    assert isinstance(search, WordBeamSearch) and search.about == "2-gram of words (4 of 4 spelled), beam 128"
    model = estimate([sentence.split() for sentence in sentences], 2)
    gain = (sentence_log(model, ["bat"]) - sentence_log(model, ["cat"])) / math.log(10)
    threshold = math.log(0.55 / 0.45) / gain
    audio = certain([{PLACE["c"]: 0.55, PLACE["b"]: 0.45}, {PLACE["a"]: 1}, {PLACE["t"]: 1}], BLANK + 1)
    for alpha, wanted in ((0, "cat"), (0.97 * threshold, "cat"), (1.03 * threshold, "bat")):
        search.set_weights(alpha, 0)
        assert search.decode([audio]) == [wanted]
    unsure = certain([{PLACE["a"]: 0.3, BLANK: 0.7}], BLANK + 1)  # beta is for each word
    for beta, wanted in ((0.8, ""), (0.9, "a")):  # ln(0.7 / 0.3) = 0.847
        search.set_weights(0, beta)
        assert search.decode([unsure]) == [wanted]


@needs_flashlight
def test_silence_and_missing_spaces(ctc, tmp_path):
    """Blanks or spaces alone are no word; words are separated even if the recognizer wrote no space."""
    search = open_beam_search(write_words(tmp_path / "words.arpa", ["bat hat", "hat bat"]), ctc)
    path = [{PLACE[sign]: 1} for sign in "bathat"]
    nothing = [certain([{BLANK: 1}] * 3, BLANK + 1), certain([{PLACE[" "]: 1}] * 3, BLANK + 1)]
    assert search.decode([certain(path, BLANK + 1), *nothing]) == ["bat hat", "", ""]


@needs_flashlight
def test_a_file_as_srilm_writes_it(ctc, tmp_path):
    """An empty line first, no <unk>, no back-off weights at the longest histories, capitals, which the recognizer does not
    write; as the LibriSpeech 4-gram."""
    grams = "-0.5\t</s>\n-99\t<s>\t-0.3\n-0.6\tBAT\t-0.2\n-0.7\tCAT\n\n\\2-grams:\n-0.1\t<s> BAT\n-0.2\tBAT </s>\n"
    path = tmp_path / "srilm.arpa"
    path.write_text(f"\n\\data\\\nngram 1=4\nngram 2=2\n\n\\1-grams:\n{grams}\n\\end\\\n")
    search = open_beam_search(path, ctc)
    audio = certain([{PLACE["c"]: 0.55, PLACE["b"]: 0.45}, {PLACE["a"]: 1}, {PLACE["t"]: 1}], BLANK + 1)
    assert search.decode([audio]) == ["bat"]
    search.set_weights(0, 0)
    assert search.decode([audio]) == ["cat"]
    write_tokens(tmp_path / "tokens.arpa", [[1, 2]])
    path.write_text("\n" + (tmp_path / "tokens.arpa").read_text())
    with pytest.raises(ValueError, match="sed -i 1d"):
        open_beam_search(path, ctc)


@needs_flashlight
@pytest.mark.parametrize("kind", ["words", "tokens"])
def test_a_text_does_not_depend_on_its_batch(ctc, tmp_path, kind):
    """NeMo's strategies would also decode the padding."""
    texts = ["the cat sat", "a cat", "the hat on a cat", "sat on the cat"]
    if kind == "words":
        path = write_words(tmp_path / "words.arpa", texts)
    else:
        path = write_tokens(tmp_path / "tokens.arpa", [token_ids(ctc, text) for text in texts])
    search = open_beam_search(path, ctc)
    generator = torch.Generator().manual_seed(0)
    lengths = (40, 7, 25, 12, 33, 3)
    outputs = [(2 * torch.randn(length, BLANK + 1, generator=generator)).log_softmax(-1) for length in lengths]
    alone = [search.decode([output])[0] for output in outputs]
    assert search.decode(outputs) == alone and len(set(alone)) > 3


def test_without_language_model_weight_the_search_writes_what_is_likely(ctc, tmp_path):
    """alpha = beta = 0 and certain audio: the greedy text."""
    search = open_beam_search(write_tokens(tmp_path / "tokens.arpa", [[1, 2], [3]]), ctc)
    search.set_weights(0, 0)
    path = "hhe-ll-lo  w-orld"
    audio = certain([{BLANK if sign == "-" else PLACE[sign]: 0.9} for sign in path], BLANK + 1)
    assert search.decode([audio]) == ["hello world"]


def test_words_are_spelled_with_what_the_recognizer_has(ctc, tmp_path):
    arpa = read_arpa(write_words(tmp_path / "words.arpa", ["THE CAT", "the dog's café"]))
    found = spell(arpa, ctc)
    assert found["THE"] == ["t", "h", "e"] and found["the"] == ["t", "h", "e"]  # LibriSpeech's model is in capitals
    assert found["dog's"] == list("dog's") and "café" not in found
    with pytest.raises(ValueError, match=r"other\.arpa.*\b2 words\b.*'кот'"):
        spell(read_arpa(write_words(tmp_path / "other.arpa", ["кот пёс"])), ctc)
    with pytest.raises(ValueError, match=r"\btoken\b.*\bspace\b"):
        spell(arpa, make_ctc(list("abcdefgh")))


@needs_flashlight
def test_word_pieces(tmp_path):
    texts = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog"] * 3
    model = make_bpe_ctc(tmp_path, texts, 30)
    size = len(vocabulary(model)) + 1
    arpa = read_arpa(write_words(tmp_path / "words.arpa", texts))
    for word, tokens in spell(arpa, model).items():
        assert "".join(tokens) == f"▁{word}"
    text = "the dog sat"
    audio = certain([{token: 1} for place in token_ids(model, text) for token in (place, size - 1)], size)
    words = open_beam_search(tmp_path / "words.arpa", model)
    tokens = open_beam_search(write_tokens(tmp_path / "tokens.arpa", [token_ids(model, text) for text in texts]), model)
    assert words.decode([audio]) == tokens.decode([audio]) == [text]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"mmap lm http://kheafield.com/code format version 5\n\x00", "ARPA.*'mmap lm"),
        (b"hello\n", "ARPA.*'hello'"),
        (b"", "counts.*1-grams"),
        (gzip.compress(b"\\data\\\n", mtime=0), "gunzip"),
        (b"\\data\\\nngram 1=1\n\n\\1-grams:\n-1\t\xff\n", "UTF-8"),
        (b"\\data\\\n\n\\1-grams:\n", "counts.*1-grams"),
        (b"\\data\\\nngram 1=2\n\n\\1-grams:\n-1\t<s>\n-1\t</s>\n", r"lm\.arpa.*\\end\\"),
        (b"\\data\\\nngram 1=3\n\n\\1-grams:\n-1\t<s>\n-1\t</s>\n\n\\end\\\n", r"\b3 1-grams.*\b2\b"),
        (b"\\data\\\nngram 1=1\n\n\\1-grams:\n-1\tcat\n\n\\end\\\n", "</s>.*<s>"),
        (b"\\data\\\nngram 1=1\n\n\\1-grams:\n-1 cat\n\n\\end\\\n", "'-1 cat'.*1-grams"),
    ],
)
def test_files_that_are_no_language_model(tmp_path, content, message):
    path = tmp_path / "lm.arpa"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_arpa(path)


def test_language_models_that_do_not_fit(ctc, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"none\.arpa"):
        read_arpa(tmp_path / "none.arpa")
    for name, symbols in (("plain", ["a", "b"]), ("larger", [chr(100 + BLANK)])):
        write_arpa(estimate([symbols], 2), tmp_path / f"{name}.arpa")
        with pytest.raises(ValueError, match=rf"{name}\.arpa.*\b28\b.*--tokens-of"):
            open_beam_search(tmp_path / f"{name}.arpa", ctc)
    monkeypatch.setitem(sys.modules, "flashlight", None)
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder.kenlm", None)
    with pytest.raises(ImportError, match="pip install flashlight-text"):
        open_beam_search(write_words(Path(tmp_path) / "words.arpa", ["the cat"]), ctc)


def test_weights_are_chosen_on_a_development_set(ctc, tmp_path):
    a, b = PLACE["a"], PLACE["b"]
    search = open_beam_search(write_tokens(tmp_path / "tokens.arpa", [[b]] * 3 + [[a]]), ctc)
    outputs = [certain([{a: 0.55, b: 0.45}], BLANK + 1), certain([{a: 0.99, b: 0.01}], BLANK + 1)] * 10
    lines = [{"text": "b"}, {"text": "a"}] * 10
    done = []
    trials = tune(search, lines, outputs, [0.0, 0.5, 20.0], [0.0], "default", done.append)
    assert [(trial.alpha, trial.wer) for trial in trials] == [(0.0, 0.5), (0.5, 0.0), (20.0, 0.5)]
    assert best(trials).alpha == 0.5 and at_the_edge(trials) == [] and len(done) == 3
    assert at_the_edge([Trial(0.0, 0.0, 0.3, 0.3), Trial(1.0, 0.0, 0.2, 0.2)]) == ["alpha"]
