"""ABX: items of known alignments; features whose answer is known, with fastabx where it is installed (Python 3.12)."""

from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from lhotse.supervision import AlignmentItem
from scipy import stats

from nemo_birq.evaluation.abx.items import Items, check_speakers, find_items
from nemo_birq.evaluation.abx.layers import LayerAbx, best_layer, score_layers
from nemo_birq.evaluation.abx.score import NO_TRIPLES, AbxError, AbxErrors, abx_errors, is_available
from nemo_birq.evaluation.encoder_comparison.differences import AbxDifference, difference
from nemo_birq.evaluation.label_quality.alignments import Alignments, phones_at
from nemo_birq.evaluation.probing.data import LabelledSet
from nemo_birq.evaluation.probing.representations import Represented
from nemo_birq.modules.frame_times import FrameTimes
from nemo_birq.utils.progress import ProgressBars

pytestmark = pytest.mark.unit
HAS_FASTABX = find_spec("fastabx") is not None
TIMES = FrameTimes(0.0, 0.04)


def made_up(phones: dict[str, list[tuple[str, float]]]) -> LabelledSet:
    """A set of utterances, each with phones and their seconds one after the other; named ``speaker-number``."""
    found = {}
    for name, spoken in phones.items():
        ends = np.cumsum([seconds for _, seconds in spoken])
        found[name] = [AlignmentItem(p, float(e - d), d) for (p, d), e in zip(spoken, ends, strict=True)]
    lines = [{"audio_filepath": f"{name}.wav", "speaker": name.split("-")[0]} for name in found]
    return LabelledSet(None, list(range(len(lines))), lines, None, Alignments(found, {}, set(found)), Counter())


def random_speech(utterances: int, seed: int = 0) -> LabelledSet:
    """Four speakers who say A, B, C and D at random, none twice in a row, between silences; durations tell nothing."""
    random = np.random.default_rng(seed)
    phones = {}
    for number in range(utterances):
        said = np.cumsum(random.integers(1, 4, 20)) % 4
        spoken = [
            ("ABCD"[phone], float(seconds)) for phone, seconds in zip(said, random.uniform(0.06, 0.2, 20), strict=True)
        ]
        phones[f"s{number % 4}-{number}"] = [("SIL", 0.2), *spoken, ("SIL", 0.2)]
    return made_up(phones)


def represented(labelled: LabelledSet, make, order: list[int] | None = None) -> Represented:
    """Frames that ``make`` computes of the phones of an utterance, in another order than that of the set."""
    order = order or labelled.rows[::-1]
    frames, counts = [], []
    for row in order:
        items = labelled.alignments.phones[labelled.lines[row]["audio_filepath"].removesuffix(".wav")]
        phones = phones_at(items, TIMES.middles(int(items[-1].end / TIMES.step)))
        frames.append(make(phones))
        counts.append(len(phones))
    return Represented({"pretrained": torch.cat(frames).half().unsqueeze(0)}, counts, order, TIMES)


def one_hot(phones: list[str]) -> torch.Tensor:
    return torch.eye(5)[[["SIL", "A", "B", "C", "D"].index(phone) for phone in phones]]


def noise(phones: list[str]) -> torch.Tensor:
    return torch.randn(len(phones), 16)


def test_items_have_the_frames_whose_middles_they_hold():
    labelled = made_up({"s1-a": [("SIL", 0.1), ("A", 0.1), ("B", 0.02), ("C", 0.1), ("D", 0.1)]})
    outputs = Represented({}, [10], [0], TIMES)  # middles at 0, 0.04, ... 0.36 s
    triphones = find_items(outputs, labelled, "triphone")
    assert triphones.spans == [(3, 8), (5, 10)] and triphones.too_short == 0  # A B C: 0.1 to 0.32; B C D: 0.2 to 0.42
    assert triphones.labels == {"#phone": ["B", "C"], "prev-phone": ["A", "B"], "next-phone": ["C", "D"],
                                "speaker": ["s1", "s1"]}  # fmt: skip
    phones = find_items(outputs, labelled, "phone")
    assert phones.labels["#phone"] == ["A", "B", "C"] and phones.spans == [(3, 5), (5, 6), (6, 8)]
    later = find_items(outputs._replace(times=FrameTimes(0.01, 0.04)), labelled, "phone")
    assert later.labels["#phone"] == ["A", "B", "C"] and later.too_short == 0
    coarse = find_items(Represented({}, [5], [0], FrameTimes(0.0, 0.08)), labelled, "phone")
    assert coarse.labels["#phone"] == ["A", "C"] and coarse.too_short == 1  # no middle in B: 0.2 to 0.22 s


def test_items_follow_the_order_of_the_frames():
    labelled = made_up({"s1-a": [("A", 0.1), ("B", 0.1), ("C", 0.1)], "s2-b": [("C", 0.1), ("D", 0.1), ("A", 0.1)]})
    found = find_items(Represented({}, [7, 9], [1, 0], TIMES), labelled, "triphone")
    assert found.labels["speaker"] == ["s2", "s1"] and found.spans == [(0, 7), (7, 15)]
    part = labelled._replace(rows=[0], lines=labelled.lines[:1])  # the other utterance keeps its place
    assert find_items(Represented({}, [7, 9], [1, 0], TIMES), part, "triphone").spans == [(7, 15)]


def test_neighbours_with_a_gap_make_no_triphone():
    labelled = made_up({"s1-a": [("A", 0.1), ("B", 0.1), ("C", 0.1)]})
    moved = labelled.alignments.phones["s1-a"]
    moved[2] = moved[2]._replace(start=0.3)
    assert find_items(Represented({}, [9], [0], TIMES), labelled, "triphone").spans == []


def test_the_dev_set_chooses_the_layer():
    def errors(within: float, across: AbxError) -> AbxErrors:
        return AbxErrors(AbxError(within, 5, {}), across)

    rows = [
        LayerAbx(1, errors(0.3, NO_TRIPLES), errors(0.1, AbxError(0.1, 5, {}))),
        LayerAbx(2, errors(0.2, NO_TRIPLES), errors(0.4, AbxError(0.1, 5, {}))),
    ]
    assert best_layer(rows, "within").layer == 2 and best_layer(rows, "across") is None


def test_speakers_are_needed():
    labelled = random_speech(4)
    assert check_speakers(labelled, "dev") is None
    without = labelled._replace(lines=[{"audio_filepath": "x.wav"}, *labelled.lines[1:]])
    assert check_speakers(without, "dev") == "1 lines of the dev set have no 'speaker'"


@pytest.mark.skipif(HAS_FASTABX, reason="fastabx is installed")
def test_without_fastabx_the_error_names_the_remedy():
    assert not is_available()
    with pytest.raises(ImportError, match=r"Python 3\.12 or later.*nemo_birq\[abx\]"):
        abx_errors(torch.zeros(2, 3), Items([(0, 2)], {}, 0), "phone")


@pytest.mark.skipif(not HAS_FASTABX, reason="fastabx needs Python 3.12")
@pytest.mark.parametrize("unit", ["triphone", "phone"])
def test_one_hot_phones_have_no_errors_and_noise_has_half(unit):
    labelled = random_speech(60)
    torch.manual_seed(0)
    perfect = represented(labelled, one_hot)
    found = abx_errors(perfect.frames["pretrained"][0], find_items(perfect, labelled, unit), unit)
    assert (found.within.error, found.across.error) == (0.0, 0.0)
    assert found.within.interval == found.across.interval == (0.0, 0.0)
    assert min(found.within.triples, found.across.triples) > 5000
    random = represented(labelled, noise)
    found = abx_errors(random.frames["pretrained"][0], find_items(random, labelled, unit), unit)
    for kind in found:
        assert kind.error == pytest.approx(0.5, abs=0.03) and kind.interval[0] < 0.5 < kind.interval[1]


@pytest.mark.skipif(not HAS_FASTABX, reason="fastabx needs Python 3.12")
def test_features_of_the_speaker_are_right_within_and_wrong_across():
    """X of another speaker is nearer to neither A nor B by its phone, where the phones of speakers have swapped features."""
    labelled = random_speech(60)

    def swapped(phones: list[str], row: int) -> torch.Tensor:
        names = "ABCD" if labelled.lines[row]["speaker"] in ("s0", "s1") else "BADC"
        return torch.eye(5)[[0 if phone == "SIL" else 1 + names.index(phone) for phone in phones]]

    order = labelled.rows[::-1]
    rows = iter(order)
    outputs = represented(labelled, lambda phones: swapped(phones, next(rows)), order)
    found = abx_errors(outputs.frames["pretrained"][0], find_items(outputs, labelled, "phone"), "phone")
    assert found.within.error == 0.0 and found.across.error > 0.2


@pytest.mark.skipif(not HAS_FASTABX, reason="fastabx needs Python 3.12")
def test_layers_are_scored_one_by_one():
    labelled = random_speech(24)
    torch.manual_seed(0)
    outputs = represented(labelled, lambda phones: torch.cat([one_hot(phones), torch.randn(len(phones), 5)], dim=1))
    frames = outputs.frames["pretrained"][0]
    outputs = outputs._replace(frames={"pretrained": torch.stack([frames[:, 5:], frames[:, :5]])})
    with ProgressBars(disable=True) as progress:
        rows, notes = score_layers(
            {"dev": outputs, "test": outputs}, {"dev": labelled, "test": labelled}, "pretrained", [1, 2], "phone",
            torch.device("cpu"), progress,
        )  # fmt: skip
    assert [row.layer for row in rows] == [1, 2] and notes == []
    assert rows[0].test.within.error > 0.4 and rows[1].test.within.error == 0.0 and best_layer(rows, "across").layer == 2


@pytest.mark.skipif(not HAS_FASTABX, reason="fastabx needs Python 3.12")
def test_without_triples_there_is_no_number():
    labelled = made_up({"s1-a": [("A", 0.1), ("B", 0.1), ("C", 0.1)]})
    outputs = represented(labelled, noise)
    found = abx_errors(outputs.frames["pretrained"][0], find_items(outputs, labelled, "phone"), "phone")
    assert found == AbxErrors(NO_TRIPLES, NO_TRIPLES) and found.within.interval is None


@pytest.mark.skipif(not HAS_FASTABX, reason="fastabx needs Python 3.12")
@pytest.mark.parametrize("unit", ["triphone", "phone"])
def test_without_a_speaker_the_rate_is_that_of_fastabx_on_the_others(unit):
    """No cell has more items than fastabx takes, so that both have the same triples."""
    labelled = random_speech(16)
    torch.manual_seed(0)
    outputs = represented(labelled, lambda phones: one_hot(phones) + 0.7 * torch.randn(len(phones), 5), labelled.rows)
    found = abx_errors(outputs.frames["pretrained"][0], few(find_items(outputs, labelled, unit)), unit)
    for speaker in ("s0", "s3"):
        rest = few(find_items(outputs, labelled, unit))
        kept = [number for number, name in enumerate(rest.labels["speaker"]) if name != speaker]
        rest = Items([rest.spans[i] for i in kept], {k: [v[i] for i in kept] for k, v in rest.labels.items()}, 0)
        alone = abx_errors(outputs.frames["pretrained"][0], rest, unit)
        for one, other in zip(found, alone, strict=True):
            assert 0 < one.error < 0.5 and one.without_speaker[speaker] == pytest.approx(other.error, abs=1e-6)
            assert one.without_speaker[speaker] != pytest.approx(one.error, abs=1e-4)
    assert all(score.interval[0] < score.error < score.interval[1] for score in found)


def few(items: Items) -> Items:
    """The first ten items of each phone and speaker."""
    seen, kept = Counter(), []
    for number, key in enumerate(zip(items.labels["#phone"], items.labels["speaker"], strict=True)):
        seen[key] += 1
        if seen[key] <= 10:
            kept.append(number)
    return Items([items.spans[i] for i in kept], {k: [v[i] for i in kept] for k, v in items.labels.items()}, 0)


def test_intervals_are_those_of_the_t_tests_over_speakers():
    """Where an error rate is the mean of one rate a speaker."""

    def score(rates: dict[str, float]) -> AbxError:
        others = {name: np.mean([rate for other, rate in rates.items() if other != name]) for name in rates}
        return AbxError(np.mean(list(rates.values())), 5, others)

    first = {"a": 0.10, "b": 0.12, "c": 0.20, "d": 0.14}
    second = {"a": 0.08, "b": 0.09, "c": 0.16, "d": 0.13}
    expected = stats.ttest_1samp(list(first.values()), 0).confidence_interval(0.95)
    assert score(first).interval == pytest.approx(tuple(expected))
    whole, interval = difference(score(first), score(second))
    expected = stats.ttest_rel(list(second.values()), list(first.values())).confidence_interval(0.95)
    assert whole == pytest.approx(-0.025) and interval == pytest.approx(tuple(expected))
    assert str(AbxDifference("within", "x", "y", whole, interval)) == (
        "ABX within: y has -2.5 points against x, 95 % interval -4.6 to -0.4: they differ."
    )
    small = score({"a": 0.0, "b": 0.02})
    assert small.interval[0] == 0.0 and AbxError(0.1, 5, {}).interval is None  # a rate is not below 0


def test_a_speaker_without_triples_at_one_frame_rate_changes_nothing_there():
    first, second = AbxError(0.1, 5, {"a": 0.2, "b": 0.1}), AbxError(0.3, 5, {"a": 0.4, "b": 0.3, "c": 0.3})
    whole, interval = difference(first, second)
    assert whole == pytest.approx(0.2) and interval == pytest.approx((0.2, 0.2))
