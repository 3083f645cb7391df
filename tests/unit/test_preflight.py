"""The check of labels before training."""

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.evaluation.preflight import measure as preflight
from nemo_birq.evaluation.preflight import report as preflight_report
from nemo_birq.labels.enhanced import gumbel_noise
from nemo_birq.labels.quantizer import draw_codebook
from tests.helpers.models import generator, make_batch, make_model

pytestmark = pytest.mark.unit

BATCHES = [make_batch((3.0, 2.0, 1.0), seed=seed) for seed in range(4)]


def test_agreement_is_that_of_drawn_gumbel_noise():
    codebook = draw_codebook(1, 64, 8, generator(0))
    units = F.normalize(torch.randn(2000, 1, 8, generator=generator(1)), dim=-1)
    scores = torch.einsum("nhd,hvd->nhv", units, codebook)
    curve = preflight.selection(units, codebook)
    for scale, agreement in zip(preflight.SCALES, curve.agreement, strict=True):
        picked = ((scale * scores + gumbel_noise(scores, generator(2))) / 0.5).argmax(-1)
        assert agreement == pytest.approx(float((picked == scores.argmax(-1)).float().mean()), abs=0.035)
    assert curve.agreement == sorted(curve.agreement) and curve.codes == sorted(curve.codes, reverse=True)
    assert curve.at(curve.suggestion(0.6)) == pytest.approx(0.6, abs=0.02)  # it has two digits


def test_random_vectors_have_the_values_of_the_table():
    """8192 codes of 16 dimensions: 0.000, 0.016, 0.20, 0.51, 0.76, 0.88 at 1, 10, 20, 40, 80, 160, each drawn once."""
    codebook = draw_codebook(1, 8192, 16, generator(0))
    curve = preflight.selection(F.normalize(torch.randn(512, 1, 16, generator=generator(1)), dim=-1), codebook)
    for scale, agreement in ((1, 0.0), (10, 0.016), (20, 0.20), (40, 0.51), (80, 0.76), (160, 0.88)):
        assert curve.at(scale) == pytest.approx(agreement, abs=0.035)
    assert curve.codes[0] == pytest.approx(7941, abs=2)


def test_check_counts_the_labels_of_training_and_leaves_the_model(tmp_path):
    model = make_model().train()
    before = {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    result = preflight.measure(model, BATCHES, minutes=0.25)
    assert result.minutes == pytest.approx(0.3)  # the third batch of 6 s ends it
    assert all(torch.equal(before[name], tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()])
    anchors = torch.cat([model.extract_labels(b.signal, b.signal_length).anchor.flatten() for b in BATCHES[:3]])
    shares = torch.bincount(anchors[anchors >= 0], minlength=24).double()
    assert result.frames == int(shares.sum())
    shares /= shares.sum()
    assert result.labels["anchor"].perplexity == pytest.approx(float(torch.special.entr(shares).sum().exp()), rel=1e-5)
    assert result.labels["anchor"] == result.labels["anchor, per_feature"] != result.labels["anchor, not normalized"]
    assert result.failures(model) == []
    preflight_report.draw(result, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_tracked_codes_are_measured_where_training_moves_them():
    """Codes that follow the frames are used more evenly than random ones."""
    changes = {"birq__labels__code_dim": 8, "birq__labels__codebook": "tracked"}
    found = [preflight.measure(make_model(**options), BATCHES, minutes=1) for options in ({}, changes)]
    random, tracked = (result.labels["layer k"].perplexity for result in found)
    assert tracked > 1.1 * random
    automatic = preflight.measure(make_model(**changes, birq__labels__logit_scale="auto"), BATCHES, minutes=1)
    assert automatic.selection["layer k"].at(automatic.logit_scale) == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"birq__labels__logit_scale": 1.0}, "the enhanced labels are noise"),
        ({"preprocessor__normalize": None}, "The features are degenerate"),
        ({"birq__masking__span_frames": 2}, "of the frames are masked"),
        ({"birq__labels__normalization": "layer_norm"}, "the enhanced labels have collapsed"),
    ],
)
def test_gate_fails_in_words(changes, why):
    model = make_model(**changes)
    assert any(why in failure for failure in preflight.measure(model, BATCHES, minutes=1).failures(model))


def test_silence_fails_and_no_batch_is_an_error():
    model = make_model()
    silent = [batch._replace(signal=0 * batch.signal) for batch in BATCHES]
    assert "100% of the readable utterances are silent" in preflight.measure(model, silent, minutes=1).failures(model)[0]
    stand_in = SpeechBatch(torch.zeros(1, 16000), torch.tensor([16000]), [], 3)  # says nothing about the data
    alone, together = (preflight.measure(model, data, minutes=1) for data in (BATCHES, [stand_in, *BATCHES]))
    assert alone.skipped == 0 and together == replace(alone, skipped=3, skipped_share=3 / 15)
    assert together.failures(model) == []  # three are few
    with pytest.raises(ValueError, match=r"\b3 utterances"):
        preflight.measure(model, [stand_in], minutes=1)
    with pytest.raises(ValueError, match=r"model\.train_ds.*min_duration.*max_duration"):
        preflight.measure(model, [], minutes=1)


@pytest.mark.parametrize(("most", "passes"), [(None, False), (0.3, False), (0.6, True)])
def test_gate_fails_where_training_would_stop_for_unreadable_data(most, passes):
    model = make_model(**{} if most is None else {"train_ds__max_skipped_share": most})
    half = [batch._replace(skipped=3) for batch in BATCHES]
    failures = preflight.measure(model, half, minutes=1).failures(model)
    assert [f"max_skipped_share={most or 0.05}" in failure for failure in failures] == [True] * (not passes)


class EndlessLoader(torch.utils.data.DataLoader):
    def __iter__(self):
        while True:
            yield from super().__iter__()


def test_an_endless_loader_is_read_once():
    result = preflight.measure(make_model(), EndlessLoader(BATCHES, batch_size=None), minutes=5)
    assert result.minutes == pytest.approx(len(BATCHES) * 6 / 60)


@pytest.mark.parametrize(("scale", "said"), [(None, "keep it"), (2.0, "set model.birq.labels.logit_scale=")])
def test_words_and_picture_agree_on_what_is_healthy(tmp_path, monkeypatch, scale, said):
    """The picture marks a suggestion where the words make one, and the range of the metric in both."""
    result = preflight.measure(make_model(), BATCHES, minutes=1)
    agreed = result.selection["layer k"].suggestion(0.7)
    result = replace(result, logit_scale=scale or agreed)
    figures = []
    monkeypatch.setattr(preflight_report, "write_picture", lambda figure, path: figures.append(figure))
    preflight_report.draw(result, tmp_path / "x.png")
    line = preflight_report.suggestion_line(result)
    assert said in line and "50% to 90% is healthy" in line
    named = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert "healthy: 50% to 90%" in named
    suggested = [text.removeprefix("suggested: ") for text in named if text.startswith("suggested")]
    assert suggested == re.findall(r"logit_scale=([\d.]+), which", line)
