"""``logit_scale=auto``: the scale at which the nearest code has a given share of the label."""

import math

import pytest
import torch
import torch.nn.functional as F

from nemo_birq.labels.logit_scale import LARGEST, ScaleChoice, scale_of
from nemo_birq.labels.quantizer import draw_codebook
from nemo_birq.model import BiRQModel
from tests.helpers.models import generator, make_model, train

pytestmark = pytest.mark.unit


def units(count: int, dim: int = 16, books: int = 1) -> torch.Tensor:
    return F.normalize(torch.randn(count, books, dim, generator=generator(1)), dim=-1)


@pytest.mark.parametrize("share", [0.55, 0.7, 0.9])
def test_of_two_codes_it_is_the_closed_form(share):
    """The nearest has the probability 1 / (1 + exp(-scale * gap))."""
    codebook = torch.tensor([[[1.0, 0.0], [math.cos(0.5), math.sin(0.5)]]])
    frames = torch.tensor([[[1.0, 0.0]]]).expand(7, 1, 2)
    expected = math.log(share / (1 - share)) / (1 - math.cos(0.5))
    assert float(scale_of(share, frames, codebook)) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(("codes", "share"), [(64, 0.6), (2048, 0.6), (2048, 0.3)])
def test_the_share_is_reached(codes, share):
    codebook, frames = draw_codebook(2, codes, 16, generator(0)), units(300, books=2)
    scale = float(scale_of(share, frames, codebook))
    scores = torch.einsum("nhd,hvd->nhv", frames.double(), codebook.double())
    assert float((scale * scores).softmax(dim=-1).amax(dim=-1).mean()) == pytest.approx(share, abs=2e-3)


def test_codes_that_cannot_be_told_apart_get_the_largest_scale():
    codebook = draw_codebook(1, 1, 16, generator(0)).expand(1, 4, 16)
    assert float(scale_of(0.9, units(20), codebook)) == pytest.approx(LARGEST, rel=5e-3)


def test_the_first_batches_choose_and_each_doubling_and_one_without_frames_changes_nothing():
    choice, codebook, frames = ScaleChoice(0.6, batches=2), draw_codebook(1, 64, 16, generator(0)), units(400)
    choice.update(frames[:0], codebook)
    assert choice.value is None
    values = []
    for batch in frames.split(40):
        choice.update(batch, codebook)
        values.append(choice.value)
    chosen = [number for number in range(2, 11) if number == 2 or values[number - 2] != values[number - 3]]
    assert chosen == [2, 4, 8]
    assert values[6] == pytest.approx(float(scale_of(0.6, frames[240:280], codebook)), rel=1e-6)


AUTO = {"birq__labels__logit_scale": "auto", "birq__labels__nearest_share": 0.8, "birq__anchor__fit_steps": 2}


def test_a_training_keeps_what_its_first_batches_chose(tmp_path):
    """In a checkpoint from which it goes on, and in a ``.nemo``."""
    first = make_model(**AUTO)
    assert first.enhanced_labeler.logit_scale == 40.0  # until there is a choice
    train(first, tmp_path / "first", 1).save_checkpoint(tmp_path / "first.ckpt")
    chosen, resumed = first.enhanced_labeler.logit_scale, make_model(**AUTO)
    assert chosen != 40.0
    train(resumed, tmp_path / "second", 1, ckpt_path=str(tmp_path / "first.ckpt"))
    assert resumed.enhanced_labeler.logit_scale == chosen
    train(resumed, tmp_path / "third", 4, ckpt_path=str(tmp_path / "first.ckpt"))
    last = resumed.enhanced_labeler.logit_scale
    assert resumed.enhanced_labeler.choice.seen == 4 and last != chosen
    resumed.save_to(str(tmp_path / "model.nemo"))
    assert BiRQModel.restore_from(str(tmp_path / "model.nemo"), map_location="cpu").enhanced_labeler.logit_scale == last
