"""Error rates, their intervals and comparisons, checked by manual cases, torchmetrics, closed forms and simulation."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kaldialign import bootstrap_wer_ci
from rich.console import Console
from scipy import stats
from torchmetrics.functional.text import char_error_rate, word_error_rate

from nemo_birq.scoring.comparison import compare
from nemo_birq.scoring.comparison_table import verdict
from nemo_birq.scoring.confidence import matched_pairs_p, permutation_p, ratio_interval, sum_by
from nemo_birq.scoring.errors import align, count_errors
from nemo_birq.scoring.normalization import normalize
from nemo_birq.scoring.pictures import draw_score
from nemo_birq.scoring.record import finished, made_from
from nemo_birq.scoring.results import summarize
from nemo_birq.scoring.score_file import read_score
from nemo_birq.scoring.tables import aligned, score_table, worst
from nemo_birq.utils.files import write_json

pytestmark = pytest.mark.unit

WORDS = st.lists(st.sampled_from(["a", "an", "the", "cat", "cats", "sat", "sit"]), min_size=1, max_size=8).map(" ".join)


def make_lines(texts, speakers=None, durations=None):
    speakers = speakers or [None] * len(texts)
    durations = durations or [2.0] * len(texts)
    found = zip(texts, speakers, durations, strict=True)
    return [
        {"audio_filepath": f"{i}.wav", "duration": duration, "text": text} | ({"speaker": speaker} if speaker else {})
        for i, (text, speaker, duration) in enumerate(found)
    ]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "words", "characters"),
    [  # units, substitutions, insertions, deletions
        ("the cat sat", "the cat sat", (3, 0, 0, 0), (11, 0, 0, 0)),
        ("the cat sat", "the bat sat", (3, 1, 0, 0), (11, 1, 0, 0)),
        ("the cat sat", "the cat", (3, 0, 0, 1), (11, 0, 0, 4)),
        ("the cat", "the cat sat", (2, 0, 1, 0), (7, 0, 4, 0)),
        ("", "the", (0, 0, 1, 0), (0, 0, 3, 0)),
        ("the cat", "", (2, 0, 0, 2), (7, 0, 0, 7)),
        ("ab cd", "abcd", (2, 1, 0, 1), (5, 0, 0, 1)),
    ],
)
def test_errors_counted_by_hand(reference, hypothesis, words, characters):
    for found, wanted in (
        (count_errors(reference, hypothesis), words),
        (count_errors(reference, hypothesis, True), characters),
    ):
        assert (found.units, found.substitutions, found.insertions, found.deletions) == wanted
        assert found.total == sum(wanted[1:])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6))
def test_rates_are_those_of_torchmetrics(pairs):
    references, hypotheses = zip(*pairs, strict=True)
    found = summarize(make_lines(references), list(hypotheses))
    assert found["wer"] == pytest.approx(float(word_error_rate(hypotheses, references)), rel=1e-6)
    assert found["cer"] == pytest.approx(float(char_error_rate(hypotheses, references)), rel=1e-6)
    assert found["substitutions"] + found["insertions"] + found["deletions"] == found["errors"]
    for reference, hypothesis in pairs:  # the alignment that is shown has as many errors as are counted
        shown = align(reference.split(), hypothesis.split())
        assert sum(said != heard for said, heard in shown) == count_errors(reference, hypothesis).total
        assert [said for said, _ in shown if said] == reference.split()
        assert [heard for _, heard in shown if heard] == hypothesis.split()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Hello, World!", "hello world"),
        ("don’t  STOP\tnow", "don't stop now"),
        ("well-known (sic) – yes…", "well known sic yes"),
        ("Straße ÉTÉ ﬁn", "straße été fin"),
        ("100% [noise] a\\b ^_^", "100 noise a b ^ ^"),
        (" ... ", ""),
    ],
)
def test_normalization(text, wanted):
    assert normalize([text]).texts == [wanted]
    assert normalize([wanted]).texts == [wanted] and normalize([wanted]).changed == 0  # once is enough
    assert normalize([" A,  b "], "none").texts == ["A, b"]


def test_normalization_is_the_same_for_both_sides_and_is_told():
    found = summarize(make_lines(["Yes, Sir!", "no"]), ["yes sir", "NO."])
    assert found["wer"] == found["cer"] == 0
    assert (found["normalization"]["references_changed"], found["normalization"]["hypotheses_changed"]) == (1, 1)
    assert any("lower case" in step for step in found["normalization"]["steps"])
    assert summarize(make_lines(["Yes, Sir!", "no"]), ["yes sir", "NO."], "none")["wer"] == 1
    assert found["utterances"][0]["text"] == "Yes, Sir!"  # the values of the manifest are kept
    with pytest.raises(ValueError, match=r"\breferences\b.*\bnormalization\b"):
        summarize(make_lines(["?!"]), ["yes"])
    with pytest.raises(ValueError, match=r"'other'.*default, none"):
        normalize(["a"], "other")


def test_interval_of_words_that_are_each_wrong_with_probability_p():
    """One word an utterance: the rate is a proportion, whose standard error is sqrt(p (1 - p) / n)."""
    rng = np.random.default_rng(1)
    wrong = rng.random(2000) < 0.3
    low, high = ratio_interval(wrong, np.ones(2000))
    p = wrong.mean()
    half = 1.96 * math.sqrt(p * (1 - p) / 2000)
    assert low == pytest.approx(p - half, abs=0.1 * half) and high == pytest.approx(p + half, abs=0.1 * half)
    assert ratio_interval(wrong, np.ones(2000)) == (low, high)  # seeded
    assert ratio_interval(wrong[:1], np.ones(1)) is None


def test_interval_of_utterances_of_different_lengths_is_that_of_kaldi():
    rng = np.random.default_rng(2)
    words = rng.integers(1, 12, 300)
    errors = rng.binomial(words, 0.25)
    references = [["a"] * count for count in words]
    hypotheses = [["b"] * wrong + ["a"] * (count - wrong) for count, wrong in zip(words, errors, strict=True)]
    kaldi = bootstrap_wer_ci(references, hypotheses, replications=4000)
    found = ratio_interval(errors, words)
    assert found == pytest.approx((kaldi["ci95min"], kaldi["ci95max"]), abs=0.05 * (kaldi["ci95max"] - kaldi["ci95min"]))


def test_intervals_cover_the_truth_and_over_speakers_where_speakers_differ():
    """100 test sets of 40 speakers: the interval over speakers covers the true rate, that over utterances too seldom."""
    rng = np.random.default_rng(3)
    speakers = np.repeat(np.arange(40), 8)
    truth = 0.3
    covered = {"utterances": 0, "speakers": 0}
    for _ in range(100):
        rate = rng.beta(3, 7, 40)[speakers]  # mean 0.3, differing between speakers
        words = rng.integers(5, 15, len(speakers))
        errors = rng.binomial(words, rate)
        for over, (e, w) in (("utterances", (errors, words)), ("speakers", sum_by(speakers.tolist(), errors, words))):
            low, high = ratio_interval(e, w)
            covered[over] += low <= truth <= high
    assert covered["speakers"] >= 88  # 88 of 100 or fewer: 0.4 % by chance at 95 %
    assert covered["utterances"] <= 75


def test_sums_by_speaker():
    errors, words = sum_by(["b", "a", "b"], np.array([1, 2, 3]), np.array([10, 20, 30]))
    assert sorted(zip(errors, words, strict=True)) == [(2, 20), (4, 40)]


def test_paired_tests():
    rng = np.random.default_rng(4)
    first = rng.poisson(2, 200)
    better = np.maximum(first - (rng.random(200) < 0.3), 0)
    other = rng.permutation(first)
    for test in (matched_pairs_p, permutation_p):
        assert test(first, first) == 1
        assert test(first, better) == pytest.approx(test(better, first))
        assert test(first, better) < 0.001
        assert test(first, other) > 0.05
    difference = first - other
    wanted = 2 * stats.norm.sf(abs(difference.mean() / stats.sem(difference)))
    assert matched_pairs_p(first, other) == pytest.approx(wanted)
    # exact: of the 2^3 exchanges of differences 1, 2, 3 only two are as far from 0 as their sum
    assert permutation_p(np.array([1, 2, 3]), np.zeros(3)) == pytest.approx(2 / 8)
    assert permutation_p(np.array([3]), np.zeros(1)) == 1  # of 2 / 2


def test_p_values_are_uniform_where_models_are_equally_good():
    rng = np.random.default_rng(5)
    p = []
    for _ in range(400):
        hard = rng.random(150)  # shared by both: some utterances are harder
        p.append(matched_pairs_p(rng.binomial(8, hard), rng.binomial(8, hard)))
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_groups_by_speaker_and_length(tmp_path):
    texts = ["a b c d"] * 40
    heard = ["a b c d"] * 20 + ["a b x d"] * 20
    durations = [1.0 + 0.1 * i for i in range(40)]
    found = summarize(make_lines(texts, ["s1"] * 20 + ["s2"] * 20, durations), heard)
    assert [(group["name"], group["wer"]) for group in found["speakers"]] == [("s1", 0.0), ("s2", 0.25)]
    assert sum(group["num_utterances"] for group in found["lengths"]) == 40
    assert len(found["lengths"]) == 4 and found["lengths"][0]["wer"] == 0 and found["lengths"][-1]["wer"] == 0.25
    low, high = found["wer_interval"]
    assert low < 0.125 < high
    assert found["wer_interval_over_speakers"] == (0, 0.25)  # of two speakers, one may be drawn twice
    draw_score(found, "title", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000
    assert worst(found["utterances"], 3)[0]["errors"] == 1
    console = Console(width=80, record=True)
    console.print(score_table({"test": found | {"name": "test"}}, "title"))
    printed = console.export_text()
    assert "12.5" in printed and "test" in printed and "160 words" in printed and "…" not in printed
    names = ["10-b", "9-a", "\u00b2", "9"]  # not numbers, though some begin like one
    assert [group["name"] for group in summarize(make_lines(["a"] * 4, names), ["a"] * 4)["speakers"]] == sorted(names)
    unknown = summarize(make_lines(texts), heard)
    assert not unknown["speakers"] and not unknown["lengths"] and "wer_interval_over_speakers" not in unknown
    assert "speaker" in str(summarize([line | {"speaker_id": 7} for line in make_lines(texts)], heard)["utterances"][0])


def test_alignment_in_the_terminal():
    shown = aligned("the big cat sat", "the cat sat down", 80).plain.splitlines()
    assert [line.split() for line in shown] == [
        ["said", "the", "big", "cat", "sat", "*"],
        ["heard", "the", "*", "cat", "sat", "down"],
    ]
    assert shown[0].index("cat") == shown[1].index("cat")
    narrow = aligned("one two three four", "one two tree four", 20).plain.splitlines()
    assert len(narrow) == 4 and all(len(line) <= 20 for line in narrow)


def test_two_models_on_one_test_set(tmp_path):
    texts = ["a b c d"] * 60
    lines = make_lines(texts, [f"s{i % 6}" for i in range(60)])
    first = {"manifest": "m"} | summarize(lines, ["a x c d"] * 60)
    second = {"manifest": "m"} | summarize(lines, ["a b c d"] * 30 + ["a x c d"] * 29 + ["x x x x"])
    write_json(tmp_path / "first.json", first)
    write_json(tmp_path / "second.json", second)
    found = compare(read_score(tmp_path / "first.json"), read_score(tmp_path / "second.json"))
    assert found["wer"]["first"] == 0.25 and found["wer"]["second"] == pytest.approx(33 / 240)
    assert found["wer"]["difference"] == pytest.approx(-27 / 240)
    low, high = found["wer"]["utterances"]["interval"]
    assert low < -27 / 240 < high < 0
    assert found["wer"]["utterances"]["matched_pairs_p"] < 0.001 and found["wer"]["speakers"]["rows"] == 6
    assert len(found["utterances"]) == 31 and found["utterances"][0]["second_errors"] == 4
    same = compare(first, first)
    assert same["wer"]["difference"] == 0 and same["wer"]["utterances"]["permutation_p"] == 1 and not same["utterances"]
    for spoiled, message in (
        ({"utterances": second["utterances"][1:]}, r"\b0\.wav\b.*\b1\b"),
        (
            {"utterances": [u | {"reference_scored": "q"} for u in second["utterances"]]},
            r"\breferences\b.*\b0\.wav\b.*\b60\b",
        ),
        ({"normalization": {"steps": []}}, "--normalization"),
        ({"utterances": [*second["utterances"], second["utterances"][0]]}, r"^m\b.*\butterance\b"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(first, second | spoiled)
    (tmp_path / "other.json").write_text(json.dumps({"wer": 1}))
    with pytest.raises(ValueError, match=r"other\.json.*birq score"):
        read_score(tmp_path / "other.json")
    with pytest.raises(FileNotFoundError, match=r"birq score"):
        read_score(tmp_path / "none.json")


def test_a_difference_is_claimed_only_where_there_are_enough_utterances_and_speakers():
    """If all utterances differ equally, the matched pairs test has a deviation of 0 and p = 0, even for two of them."""

    def said(count: int, speakers: int = 0) -> str:
        lines = make_lines(["a b c d"] * count, [f"s{i % speakers}" for i in range(count)] if speakers else None)
        worse, better = (summarize(lines, [heard] * count) for heard in ("a b c x", "a b c d"))
        return verdict(compare(worse, better))

    assert (
        said(1).startswith("No significant difference")
        and said(2).startswith("No significant difference")
        and "p 0.500" in said(2)
    )
    assert "The speakers are unknown" in said(20)
    assert "second model makes fewer" in said(20, 3) and "3 are too few" in said(20, 3)
    assert "the result is also significant over speakers (p 0.016)" in said(21, 7)  # 2 / 2^7
    worse, one_better = (summarize(make_lines(["a"] * 30, [f"s{i // 5}" for i in range(30)]), heard) for heard in (
        ["b"] * 30, ["a"] * 15 + ["b"] * 15,
    ))  # fmt: skip
    assert "the result is not significant over speakers (p 0.250)" in verdict(compare(worse, one_better))


def test_a_score_is_made_once_and_never_overwritten_by_that_of_another_model(tmp_path):
    model, manifest, path = (tmp_path / name for name in ("m.nemo", "t.json", "score.json"))
    model.write_text("weights")
    manifest.write_text("lines")
    made = made_from(model, manifest, {"search": "greedy"}, "default")
    assert finished(path, made, redo=False) is None
    write_json(path, {"wer": 0.5, "made_from": made})
    assert finished(path, made, redo=False)["wer"] == 0.5 and finished(path, made, redo=True) is None
    model.write_text("other weights")
    with pytest.raises(ValueError, match=r"score\.json.*\bmodel\b.*--redo"):
        finished(path, made_from(model, manifest, {"search": "greedy"}, "default"), redo=False)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"score\.json.*--out(?!.*--redo)"):
        finished(path, made, redo=False)
