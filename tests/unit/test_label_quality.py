"""Label quality: measures compared with closed forms, times with receptive fields, and the whole command."""

import json
import shutil
from collections import Counter
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse.supervision import AlignmentItem
from nemo.collections.asr.models import SpeechEncDecSelfSupervisedModel
from nemo.collections.asr.modules import ConformerEncoder
from nemo.core import ModelPT
from omegaconf import open_dict
from sklearn.metrics import mutual_info_score

from nemo_birq.evaluation.label_quality import alignments as al
from nemo_birq.evaluation.label_quality.evaluation import (
    Evaluation,
    LabelSetScore,
    check_memory,
    evaluate,
    phones_of_frames,
    which_layer,
)
from nemo_birq.evaluation.label_quality.label_sets import collect_frames, kmeans_codes, nearest_codes
from nemo_birq.evaluation.label_quality.phone_sets import ARPABET, phone_name
from nemo_birq.evaluation.label_quality.pictures import sorted_given_code
from nemo_birq.evaluation.label_quality.pnmi import Quality, joint_counts, phone_entropy, score_labels
from nemo_birq.evaluation.label_quality.utterance_view import view_utterance
from nemo_birq.evaluation.label_quality.utterances import open_speech, read_utterances
from nemo_birq.evaluation.results import check_out
from nemo_birq.labels.anchor import stack_frames
from nemo_birq.loading import load_model
from nemo_birq.modules import frame_times as fr
from nemo_birq.modules.layer_pass import encode_to_layer
from nemo_birq.utils.progress import ProgressBars
from tests.helpers.label_quality import CTM, MANIFEST, make_model_with_losses, read_short_utterances
from tests.helpers.models import SAMPLE_RATE, generator, make_model
from tests.helpers.paths import CORPUS

pytestmark = pytest.mark.unit


# --- measures -----------------------------------------------------------------------------------------------------


def quality(phones, codes) -> Quality:
    phones, codes = np.asarray(phones), np.asarray(codes)
    return score_labels(joint_counts(phones, codes, int(phones.max()) + 1, int(codes.max()) + 1))


def test_measures_of_a_case_computed_by_hand():
    # 8 frames; p(phone, code):  phone 0: 3/8 with code 0, 1/8 with code 1;  phone 1: 2/8 with code 1, 2/8 with code 2
    phones = [0, 0, 0, 0, 1, 1, 1, 1]
    codes = [0, 0, 0, 1, 1, 1, 2, 2]
    found = quality(phones, codes)
    assert found.frames == 8 and found.codes_used == 3
    assert found.phone_purity == pytest.approx(3 / 8 + 2 / 8 + 2 / 8)
    assert found.cluster_purity == pytest.approx(3 / 8 + 2 / 8)
    # H(phone) = ln 2; H(phone | code) = 3/8 * H(1/3, 2/3), codes 0 and 2 leave nothing open
    open_question = 3 / 8 * (log(3) - 2 / 3 * log(2))
    assert found.pnmi == pytest.approx(1 - open_question / log(2))
    assert phone_entropy(joint_counts(np.array(phones), np.array(codes), 2, 3)) == pytest.approx(log(2))


@st.composite
def labelled_frames(draw):
    count = draw(st.integers(2, 60))
    phones = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count).filter(lambda p: len(set(p)) > 1))
    return np.array(phones), np.array(draw(st.lists(st.integers(0, 6), min_size=count, max_size=count)))


@settings(max_examples=60, deadline=None)
@given(labelled_frames(), st.randoms(use_true_random=False))
def test_measures_against_their_definitions(labelled, random):
    phones, codes = labelled
    pairs, frames = Counter(zip(phones.tolist(), codes.tolist(), strict=True)), len(phones)
    shares = {pair: count / frames for pair, count in pairs.items()}
    of_phone = {p: sum(s for (q, _), s in shares.items() if q == p) for p in set(phones.tolist())}
    of_code = {c: sum(s for (_, d), s in shares.items() if d == c) for c in set(codes.tolist())}
    entropy = -sum(s * log(s) for s in of_phone.values())
    information = sum(s * log(s / of_phone[p] / of_code[c]) for (p, c), s in shares.items())
    found = quality(phones, codes)
    assert found.phone_purity == pytest.approx(sum(max(shares.get((p, c), 0) for p in of_phone) for c in of_code))
    assert found.cluster_purity == pytest.approx(sum(max(shares.get((p, c), 0) for c in of_code) for p in of_phone))
    assert found.pnmi == pytest.approx(information / entropy, abs=1e-9)
    assert found.pnmi == pytest.approx(mutual_info_score(phones, codes) / entropy, abs=1e-9)
    assert -1e-9 <= found.pnmi <= 1 + 1e-9 and found.phone_purity >= max(of_phone.values()) - 1e-9

    renamed = random.sample(range(20), 7)
    assert quality(phones, np.array(renamed)[codes]) == pytest.approx(found, abs=1e-9)
    merged = quality(phones, np.minimum(codes, 2))  # a function of the code has no more information than the code
    assert merged.pnmi <= found.pnmi + 1e-9 and merged.phone_purity <= found.phone_purity + 1e-9
    assert merged.cluster_purity >= found.cluster_purity - 1e-9


def test_labels_that_are_the_phones_and_labels_that_are_constant():
    phones = np.random.default_rng(0).choice(7, 500, p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05])
    same = quality(phones, 6 - phones)
    assert (same.phone_purity, same.cluster_purity) == (1, 1) and same.pnmi == pytest.approx(1)
    constant = quality(phones, np.zeros_like(phones))
    assert constant.pnmi == pytest.approx(0, abs=1e-12) and constant.pnmi_by_chance == pytest.approx(0, abs=1e-12)
    assert constant.phone_purity == pytest.approx(np.bincount(phones).max() / 500)
    with pytest.raises(ValueError, match=r"\b5 frames.*\b1 phones"):
        quality(np.zeros(5, dtype=int), np.arange(5))


@pytest.mark.parametrize("frames", [400, 20_000])
def test_random_labels_have_the_pnmi_of_chance(frames):
    """Also against the closed form for many frames: a bias of (P - 1)(V - 1) / 2N nats."""
    random = np.random.default_rng(1)
    phones, codes = random.choice(5, frames, p=[0.3, 0.3, 0.2, 0.1, 0.1]), random.integers(0, 16, frames)
    dealt = [quality(random.permutation(phones), codes) for _ in range(100)]
    found = np.array([q.pnmi for q in dealt])
    by_chance = dealt[0].pnmi_by_chance
    assert abs(found.mean() - by_chance) < 4 * found.std() / len(found) ** 0.5
    bias = 4 * 15 / (2 * frames) / phone_entropy(np.bincount(phones)[:, None])
    assert by_chance == pytest.approx(bias, rel=0.1 if frames == 400 else 0.01)


# --- times --------------------------------------------------------------------------------------------------------

SUBSAMPLINGS = {
    "striding x4": ({"subsampling": "striding", "subsampling_factor": 4}, 0),
    "striding x8": ({"subsampling": "striding", "subsampling_factor": 8}, 0),
    "dw_striding x8": ({"subsampling": "dw_striding", "subsampling_factor": 8}, 0),
    "striding x4, causal": ({"subsampling": "striding", "subsampling_factor": 4, "causal_downsampling": True}, -3),
    "dw_striding x8, causal": ({"subsampling": "dw_striding", "subsampling_factor": 8, "causal_downsampling": True}, -7),
    "stacking x4": ({"subsampling": "stacking", "subsampling_factor": 4}, 1.5),
    "none": ({"subsampling_factor": 1}, 0),
}


def receptive_field(encoder: ConformerEncoder, frame: int) -> tuple[int, int]:
    """Returns the first and last mel frame in the receptive field of encoder frame t before the layers, by the gradient."""
    for parameter in encoder.pre_encode.parameters():
        torch.nn.init.constant_(parameter, 0.01)  # positive everywhere: no gradient is cut off
    x = torch.ones(1, 160, 20, requires_grad=True)
    if isinstance(encoder.pre_encode, torch.nn.Linear):
        out = encoder.pre_encode(x)
    else:
        out, _ = encoder.pre_encode(x=x, lengths=torch.tensor([160]))
    out[0, frame].sum().backward()
    seen = x.grad[0].sum(dim=1).nonzero().flatten()
    return int(seen[0]), int(seen[-1])


@pytest.mark.parametrize(("options", "offset"), SUBSAMPLINGS.values(), ids=SUBSAMPLINGS.keys())
def test_encoder_frame_is_in_the_middle_of_what_it_sees(options, offset):
    encoder = ConformerEncoder(
        feat_in=20, n_layers=1, d_model=16, n_heads=2, conv_kernel_size=5, subsampling_conv_channels=4, **options
    )
    assert fr.first_encoder_frame(encoder) == offset
    for frame in (8, 11):
        first, last = receptive_field(encoder, frame)
        assert (first + last) / 2 == encoder.subsampling_factor * frame + offset


@pytest.mark.parametrize("exact_pad", [False, True])
def test_a_click_is_loudest_in_the_mel_frame_whose_middle_is_nearest(exact_pad):
    model = make_model(preprocessor__normalize=None, preprocessor__exact_pad=exact_pad, preprocessor__log=False).eval()
    middles = fr.mel_times(model).middles(40) * SAMPLE_RATE

    def loudest(sample: float) -> int:
        click = torch.zeros(1, 12_000)
        click[0, round(sample)] = 1.0
        energy = model.preprocessor(input_signal=click, length=torch.tensor([12_000]))[0]
        return int(energy[0].sum(dim=0).argmax())

    for frame in (20, 33):
        halfway = (middles[frame] + middles[frame + 1]) / 2
        assert [loudest(middles[frame]), loudest(halfway - 2), loudest(halfway + 2)] == [frame, frame, frame + 1]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("factor", "subsampling"), [(4, "striding"), (8, "dw_striding")])
def test_anchor_label_is_in_the_middle_of_the_stacked_frames(factor, subsampling, causal):
    model = make_model(
        encoder__subsampling_factor=factor, encoder__subsampling=subsampling, encoder__causal_downsampling=causal
    )
    features = torch.zeros(1, 2, 64, requires_grad=True)
    stack_frames(features, factor, model.leading)[0, 5].sum().backward()
    seen = features.grad[0].sum(dim=0).nonzero().flatten()
    middle = (int(seen[0]) + int(seen[-1])) / 2 * 0.01
    assert fr.anchor_times(model).middles(6)[5] == pytest.approx(middle)
    shift = factor - 1 if causal else 0
    assert fr.encoder_times(model).middles(6)[5] == pytest.approx((5 * factor - shift) * 0.01)
    edges = np.array([-0.5, factor - 0.5, 2 * factor - 0.5]) - shift
    np.testing.assert_allclose(fr.anchor_times(model).edges(2), edges * 0.01)


@pytest.mark.parametrize("subsampling", ["striding", "dw_striding"])
def test_frames_of_a_causal_encoder_are_the_newest_that_it_sees(subsampling):
    """Each feature frame belongs to the first encoder frame that sees it: in labels, in masks and in their number."""
    model = make_model(
        encoder__subsampling_factor=8, encoder__subsampling=subsampling, encoder__causal_downsampling=True,
        encoder__conv_context_size="causal", encoder__att_context_size=[8, 0], encoder__att_context_style="chunked_limited",
    ).eval()  # fmt: skip
    for parameter in model.encoder.pre_encode.parameters():
        torch.nn.init.constant_(parameter, 0.01)  # positive everywhere: no gradient is cut off
    for length in (57, 58, 64, 65):
        features = torch.ones(1, 20, length)
        encoded, _ = model.encoder(audio_signal=features, length=torch.tensor([length]))
        stacked = stack_frames(features, 8, model.leading)
        assert stacked.shape[1] == encoded.shape[2]
        for frame in range(1, 8):
            mask = torch.zeros(1, length, dtype=torch.bool)
            mask[0, 8 * frame - 7 : 8 * frame + 1] = True
            assert model.masked_frames(mask, encoded.shape[2]).tolist() == ([frame] if int(mask.sum()) >= 7 else [])
            changed = features.masked_fill(mask.unsqueeze(1), 2.0)
            alone = model.encoder(audio_signal=changed, length=torch.tensor([length]))[0]
            first = int((alone != encoded)[0].any(dim=0).nonzero()[0])
            assert first == frame == int((stack_frames(changed, 8, model.leading) != stacked)[0].any(dim=1).nonzero()[0])


def test_phone_at_a_time():
    items = [AlignmentItem("A", 0.1, 0.2), AlignmentItem("B", 0.1 + 0.2, 0.1), AlignmentItem("C", 0.5, 0.1)]
    times = np.array([-0.01, 0.0999, 0.1, 0.2999, 0.3, 0.4, 0.49, 0.5, 0.5999, 0.6])
    assert al.phones_at(items, times) == [None, None, "A", "A", "B", None, None, "C", "C", None]


def test_phones_of_frames_of_the_corpus_against_a_search_line_by_line():
    utterances = read_utterances(MANIFEST, CTM)
    assert utterances.coverage == pytest.approx(1, abs=1e-3) and not utterances.unaligned
    intervals: dict[str, list] = {}
    for name, _, start, duration, phone in (line.split() for line in CTM.read_text().splitlines()):
        begin = round(1000 * float(start))  # whole milliseconds: no rounding
        intervals.setdefault(name, []).append((begin, begin + round(1000 * float(duration)), phone))
    names = sorted(ARPABET)
    counts = {name: int(line["duration"] / 0.04) for name, line in utterances.lines.items()}
    for shift in (0, 15):
        expected = [
            next((names.index(phone) for begin, end, phone in intervals[name] if begin <= 40 * t + shift < end), -1)
            for name, count in counts.items()
            for t in range(count)
        ]
        found = phones_of_frames(utterances, counts, fr.FrameTimes(shift / 1000, 0.04), names)
        assert found.tolist() == expected
    # The known answer: labels made from the alignment, under other names, know all there is to know.
    assert quality(found, (7 * found + 3) % 41).pnmi == pytest.approx(1)
    assert quality(found[3:], found[:-3]).pnmi < 0.6


# --- alignments ---------------------------------------------------------------------------------------------------

TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 0.8
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 0.8
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 0.3
            text = ""
        intervals [2]:
            xmin = 0.3
            xmax = 0.8
            text = "at"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 0.8
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 0.3
            text = ""
        intervals [2]:
            xmin = 0.3
            xmax = 0.55
            text = "AE1"
        intervals [3]:
            xmin = 0.55
            xmax = 0.7
            text = "T"
        intervals [4]:
            xmin = 0.7
            xmax = 0.8
            text = "spn"
"""


def test_textgrids_as_an_aligner_writes_them(tmp_path):
    chapter = tmp_path / "84" / "121123"
    chapter.mkdir(parents=True)
    (chapter / "84-121123-0000.TextGrid").write_text(TEXTGRID)
    (chapter / "84-121123-0001.TextGrid").write_text(TEXTGRID.replace('"phones"', '"84 - phones"').replace("words", "x"))
    found = al.read_alignments(tmp_path, {"84-121123-0000", "84-121123-0001", "84-121123-0002"})
    expected = [("SIL", 0.0, 0.3), ("AE", 0.3, 0.55), ("T", 0.55, 0.7), ("SIL", 0.7, 0.8)]
    for name in ("84-121123-0000", "84-121123-0001"):
        assert [(item.symbol, item.start, item.end) for item in found.phones[name]] == expected
    assert [(w.symbol, w.start, w.end) for w in found.words["84-121123-0000"]] == [("at", 0.3, 0.8)]
    assert found.available == 2 and set(found.words) == {"84-121123-0000"}

    (chapter / "84-121123-0001.TextGrid").write_text(TEXTGRID.replace('"phones"', '"segments"'))
    with pytest.raises(ValueError, match=r"0001\.TextGrid.*\bphones\b.*\bsegments\b"):
        al.read_alignments(tmp_path, {"84-121123-0001"})
    (chapter / "84-121123-0001.TextGrid").write_text("no TextGrid")
    with pytest.raises(ValueError, match=r"0001\.TextGrid.*Error"):
        al.read_alignments(tmp_path, {"84-121123-0001"})
    shutil.copy(chapter / "84-121123-0000.TextGrid", tmp_path)
    with pytest.raises(ValueError, match=r"121123/84-121123-0000\.TextGrid.*84-121123-0000\.TextGrid"):
        al.read_alignments(tmp_path, {"84-121123-0000"})


@pytest.mark.parametrize(
    ("label", "phone"),
    [("AH0", "AH"), ("IY1_B", "IY"), ("T_E", "T"), ("sil", "SIL"), ("SP", "SIL"), ("spn", "SIL"), ("<eps>", "SIL"),
     ("", "SIL"), ("SIL_S", "SIL"), ("aa2", "AA"), ("ə", "ə"), ("tʃ", "tʃ")],
)  # fmt: skip
def test_phone_names(label, phone):
    assert phone_name(label) == phone


def test_ctm_with_comments_confidence_and_disorder(tmp_path):
    ctm = tmp_path / "phones.ctm"
    ctm.write_text(";; made by hand\na A 0.50 0.10 ʒ 0.9\nb A 0 1 T\na A 0.00 0.50 AA1_B 0.8\n\n")
    found = al.read_alignments(ctm, {"a", "c"})
    assert [(i.symbol, i.start, i.end) for i in found.phones["a"]] == [("AA", 0.0, 0.5), ("ʒ", 0.5, 0.6)]
    assert set(found.phones) == {"a"} and found.available == 2
    assert al.unknown_phones(found.phones) == ["ʒ"]
    ctm.write_text("a 1 0.0 0.5 AA\na 1 half 0.5 T\n")
    with pytest.raises(ValueError, match=r"phones\.ctm.*\bline 2\b.*'a 1 half 0\.5 T'"):
        al.read_alignments(ctm, {"a"})
    ctm.write_text("a 1 0.0 -0.5 AA\n")
    with pytest.raises(ValueError, match=r"phones\.ctm.*\ba\b.*\b0\.0 s\b.*-0\.5 s\b"):
        al.read_alignments(ctm, {"a"})


def test_alignments_that_belong_to_something_else(tmp_path):
    lines = CTM.read_text().splitlines()

    def written(change) -> Path:
        path = tmp_path / "changed.ctm"
        path.write_text("\n".join(" ".join(change(*line.split())) for line in lines))
        return path

    def read(change):
        return read_utterances(MANIFEST, written(change))

    with pytest.raises(ValueError, match=r"\b60 of 60\b.*\b3751\.00 s\b.*\b3\.75 s\b"):
        read(lambda name, c, start, duration, p: (name, c, str(1000 * float(start)), str(1000 * float(duration)), p))
    with pytest.raises(ValueError, match=r"\b10%.*\b50%"):
        read(lambda name, c, start, duration, p: (name, c, start, str(0.1 * float(duration)), p))
    with pytest.raises(ValueError, match=r"changed\.ctm.*\b60 .*spk024-validation-00001"):
        read(lambda name, *rest: (f"audio/{name}.opus", *rest))
    some = read(lambda name, *rest: (name.replace("spk025", "other"), *rest))
    assert len(some.unaligned) == sum("spk025" in line for line in MANIFEST.read_text().splitlines()) > 0
    assert some.alignments.available == 60 and len(some.lines) + len(some.unaligned) == 60
    with pytest.raises(FileNotFoundError, match=r"\.TextGrid\b"):
        read_utterances(MANIFEST, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.ctm"):
        read_utterances(MANIFEST, tmp_path / "none.ctm")


def test_manifests_that_do_not_do(tmp_path):
    with pytest.raises(ValueError, match=r"tarred_audio_manifest\.json.*spk002-train-00000\.opus"):
        open_speech(CORPUS / "train" / "tarred_audio_manifest.json")
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        open_speech(tmp_path / "none.json")
    line = json.loads(MANIFEST.read_text().splitlines()[0])
    line["audio_filepath"] = str(MANIFEST.parent / line["audio_filepath"])
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps(line) + "\n" + json.dumps(line))
    with pytest.raises(ValueError, match=r"manifest\.json.*\b2 files\b.*spk025-validation-00000"):
        open_speech(manifest)
    manifest.write_text(json.dumps(line | {"offset": 0.5}))
    with pytest.raises(ValueError, match=r"spk025-validation-00000\.opus.*\boffset\b"):
        open_speech(manifest)


def test_a_draw_of_utterances_is_repeatable():
    one, two = (read_utterances(MANIFEST, CTM, hours=60 / 3600) for _ in range(2))
    assert list(one.lines) == list(two.lines) and 60 <= one.seconds < 66
    assert len({name.split("-")[0] for name in one.lines}) == 4  # all speakers, not the first ones


# --- labels -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    """A model with statistics of layer k, and the shortest utterances."""
    return make_model_with_losses(), read_short_utterances()


def collected(model, utterances):
    return collect_frames(model, utterances.speech.load(SAMPLE_RATE), lambda batch: None)


def test_collected_frames_are_those_of_each_utterance_alone(small):
    model, utterances = small
    frames = collected(model, utterances)
    assert frames.counts.keys() == utterances.lines.keys() and len(frames.layers) == 3
    begin = 0
    for name, count in frames.counts.items():
        (alone,) = utterances.speech.choose([name]).load(SAMPLE_RATE)
        labels = model.extract_labels(alone.signal, alone.signal_length)
        features, lengths = model.preprocessor(input_signal=alone.signal, length=alone.signal_length)
        assert count == int(labels.lengths[0]) == pytest.approx(utterances.lines[name]["duration"] / 0.04, abs=1)
        part = slice(begin, begin + count)
        assert np.array_equal(frames.anchor[part], labels.anchor[0, :count, 0])
        assert np.mean(frames.enhanced[part] == labels.enhanced[0, :count, 0].numpy()) > 0.99  # but for rounding
        for layer, found in enumerate(frames.layers, start=1):
            with torch.no_grad():
                hidden, _ = encode_to_layer(model.encoder, features, lengths, layer)
            torch.testing.assert_close(found[part], hidden[0, :count], rtol=1e-3, atol=1e-4)
        begin += count
    assert begin == len(frames.anchor) == len(frames.layers[0])


def test_nearest_codes_of_a_layer_against_float64(small):
    model, _ = small
    hidden = torch.randn(9000, 32, generator=generator(2)) @ torch.randn(32, 32, generator=generator(3)) + 4
    x = hidden.double()
    x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
    quantizer = model.enhanced_labeler.quantizer
    unit = torch.nn.functional.normalize(x @ quantizer.projection[0].double(), dim=1)
    expected = torch.cdist(unit, quantizer.codebook[0].double()).argmin(dim=1).numpy()
    assert np.mean(nearest_codes(model, hidden) == expected) > 0.999


def test_kmeans_finds_clusters_that_are_there_and_repeats_itself():
    random = np.random.default_rng(0)
    truth = random.integers(0, 12, 3000)
    frames = torch.tensor(random.normal(size=(12, 6))[truth] * 20 + random.normal(size=(3000, 6)), dtype=torch.float32)
    codes = kmeans_codes(frames, 40, fit_frames=1000)
    assert quality(truth, codes).phone_purity == pytest.approx(1) and len(set(codes)) <= 40
    assert np.array_equal(codes, kmeans_codes(frames, 40, fit_frames=1000))


def test_evaluation_of_a_model_that_never_made_enhanced_labels():
    """The notes name both codebooks, and the statistics of the audio that are used."""
    model = make_model(birq__quantizer__num_books=2, decoder__num_decoders=2).eval()
    assert not model.enhanced_labeler.normalization.has_statistics
    utterances = read_utterances(MANIFEST, CTM, hours=20 / 3600)
    with ProgressBars(disable=True) as progress:
        found = evaluate(model, utterances, progress, kmeans=False, ignore_silence=True)
        whole = evaluate(model, utterances, progress, kmeans=False)
    assert any("made no enhanced labels" in note for note in found.notes)
    assert any("first of 2 codebooks" in note for note in found.notes)
    assert any("alignments were not used" in note for note in found.notes)
    assert [(row.labels, row.layer) for row in found.rows] == [
        ("anchor", None), ("enhanced", 2), ("layer", 1), ("layer", 2), ("layer", 3),
    ]  # fmt: skip
    assert found.of("enhanced")[0].quality == found.of("layer")[1].quality
    frames, spoken = whole.rows[1].quality.frames, found.rows[1].quality.frames
    assert spoken == pytest.approx((1 - whole.silence_share) * frames) and 0.05 < whole.silence_share < 0.5
    assert found.joint["enhanced"][found.phones.index("SIL")].sum() == 0
    # Each kind of labels is compared with the phones at its own times.
    counts = collected(model, utterances).counts
    for labels, times in (("anchor", fr.anchor_times(model)), ("enhanced", fr.encoder_times(model))):
        phones = phones_of_frames(utterances, counts, times, whole.phones)
        expected = np.bincount(phones[phones >= 0], minlength=len(whole.phones))
        assert np.array_equal(whole.joint[labels].sum(axis=1), expected)
    assert not np.array_equal(whole.joint["anchor"].sum(axis=1), whole.joint["enhanced"].sum(axis=1))


def test_layers_that_do_not_fit_into_memory_are_refused():
    with pytest.raises(ValueError, match=r"\b1000000\.0 h\b.*\d GiB.*--hours \d"):
        check_memory(make_model(), 3.6e9)


def test_the_answer_names_the_layer():
    def row(labels, layer, pnmi):
        return LabelSetScore(labels, layer, 8, Quality(100, 8, 0.5, 0.5, pnmi, 0.1, 2.0))

    rows = [
        row("anchor", None, 0.3),
        row("enhanced", 3, 0.35),
        *(row("layer", k, p) for k, p in ((1, 0.2), (2, 0.4), (3, 0.35))),
    ]
    found = Evaluation(rows, ["A", "B"], {}, 3, 1.0, 0, 0.0)
    assert "highest PNMI in layer 2 (0.400); the model's k = 3 has 0.350, the anchor labels 0.300." in which_layer(found)
    found.layer = 2
    assert "highest PNMI in layer 2 (0.400), which is the model's k, the anchor labels 0.300." in which_layer(found)
    found.rows += [row("kmeans", 1, 0.1), row("kmeans", 2, 0.5)]
    assert which_layer(found).endswith("With k-means it is layer 2 too (0.500).")


def test_codes_are_sorted_into_a_staircase():
    counts = np.array([[1, 0, 0, 8, 4], [3, 0, 5, 2, 0]])
    np.testing.assert_allclose(sorted_given_code(counts), [[1, 0.8, 0, 0.25], [0, 0.2, 1, 0.75]])


@pytest.mark.parametrize("head", ["shared", "separate"])
def test_view_shows_what_training_sees(small, head):
    """Mask, labels and predictions are those of the model's own loss with the same seed."""
    model, utterances = small
    if head == "separate":
        model = make_model(birq__loss__head="separate").eval()
    name, line = next(iter(utterances.lines.items()))
    view = view_utterance(model, utterances.speech, name, utterances.alignments.phones[name], [], seed=3)
    (batch,) = utterances.speech.choose([name]).load(SAMPLE_RATE)
    health = model.losses(batch, model.schedule.full, generator(3), observe_labels=True, over_ranks=False).health
    for track, labels, predictions in (
        (view.anchor, health["anchor_labels"], health["found"].anchor_predicted),
        (view.enhanced, health["found"].nearest, health["found"].enhanced_predicted),
    ):
        masked = track.predictions >= 0
        assert track.masked == masked.sum() == len(labels) > 0
        assert np.array_equal(track.labels[masked], labels[:, 0])
        assert np.array_equal(track.predictions[masked], predictions[:, 0])
        assert track.right == int((labels == predictions).sum())
    assert (view.name, view.text) == (name, line["text"]) and view.seconds == pytest.approx(line["duration"], abs=1e-3)
    assert view.mask.mean() > 0 and view.features.shape == (20, len(view.mask))
    assert np.all(np.diff(view.frequencies) > 0) and 6500 < view.frequencies[-1] < 8000


# --- files -------------------------------------------------------------------------------------------------------


def test_files_without_enhanced_labels_are_refused(tmp_path):
    ours = make_model()
    ours.save_to(str(tmp_path / "ours.nemo"))
    stock = ModelPT.restore_from(str(tmp_path / "ours.nemo"))
    assert type(stock) is SpeechEncDecSelfSupervisedModel
    with open_dict(stock.cfg):
        del stock.cfg.birq
    stock.save_to(str(tmp_path / "stock.nemo"))
    torch.save({"hyper_parameters": {"cfg": stock.cfg}, "global_step": 7}, tmp_path / "stock.ckpt")
    for name in ("stock.nemo", "stock.ckpt"):
        with pytest.raises(ValueError, match=rf"{name}.*SpeechEncDecSelfSupervisedModel.*\bbirq\b"):
            load_model(tmp_path / name)
    torch.save({"weights": 1}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match=r"foreign\.ckpt.*\bbirq\b"):
        load_model(tmp_path / "foreign.ckpt")
    (tmp_path / "broken.nemo").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"(?s)broken\.nemo.*\b10 bytes"):
        load_model(tmp_path / "broken.nemo")
    (tmp_path / "broken.ckpt").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"broken\.ckpt.*not a file of torch\.save"):
        load_model(tmp_path / "broken.ckpt")
    with pytest.raises(ValueError, match=r"test_label_quality\.py.*\.nemo.*\.ckpt"):
        load_model(Path(__file__))
    with pytest.raises(FileNotFoundError, match=r"none\.nemo"):
        load_model(tmp_path / "none.nemo")


def test_results_of_another_model_are_not_overwritten(tmp_path):
    """Checkpoints of one run share a folder; models of one name do not."""
    (tmp_path / "label_quality_run-step=10.json").write_text(json.dumps({"model": str(tmp_path / "run-step=10.ckpt")}))
    check_out(tmp_path, "label_quality", tmp_path / "run-step=10.ckpt")
    check_out(tmp_path, "label_quality", tmp_path / "run-step=20.ckpt")
    with pytest.raises(ValueError, match=r"label_quality_run-step=10\.json.*--out"):
        check_out(tmp_path, "label_quality", tmp_path / "elsewhere" / "run-step=10.ckpt")
