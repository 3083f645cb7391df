"""Masks: their statistics, their limits, their noise."""

import math

import pytest
import torch

from nemo_birq.modules.masking import SpanMasking
from tests.helpers.models import generator

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("probability", "span", "frames"), [(0.01, 40, 1600), (0.05, 10, 300), (0.02, 40, 25)])
def test_coverage_is_its_closed_form(probability, span, frames):
    masking = SpanMasking(probability, span, 0.1, 0.8)
    utterances = 3000
    mask = masking.draw(torch.full((utterances,), frames), frames, generator())
    per_utterance = mask.float().mean(dim=1)
    error = float(per_utterance.std()) / math.sqrt(utterances)  # utterances are independent, frames are not
    assert masking.coverage == pytest.approx(1 - (1 - probability) ** span)
    assert abs(float(per_utterance.mean()) - masking.coverage) < 4 * error
    for position in (0, frames // 2, frames - 1):  # the edges are masked as often as the middle
        share = float(mask[:, position].float().mean())
        assert abs(share - masking.coverage) < 4 * math.sqrt(masking.coverage * (1 - masking.coverage) / utterances)


def test_spans_have_their_length():
    masking = SpanMasking(0.001, 20, 0.1, 0.8)
    mask = masking.draw(torch.full((200,), 2000), 2000, generator())
    edges = torch.diff(torch.nn.functional.pad(mask.int(), (1, 1)), dim=1)
    starts, ends = (edges == 1).nonzero(), (edges == -1).nonzero()
    inner = (starts[:, 1] > 0) & (ends[:, 1] < 2000)
    assert int(inner.sum()) > 200
    assert int((ends[:, 1] - starts[:, 1])[inner].min()) == 20


def test_padding_is_never_masked():
    masking = SpanMasking(0.2, 10, 0.1, 0.0)
    lengths = torch.tensor([50, 17, 3, 1])
    mask = masking.draw(lengths, 64, generator())
    for row, length in zip(mask, lengths, strict=True):
        assert not row[length:].any()
    assert mask[2].any() or mask[1].any()  # utterances shorter than a span are masked too


def test_utterances_have_their_own_masks_and_seeds_repeat():
    masking = SpanMasking(0.02, 10, 0.1, 0.8)
    lengths = torch.full((2,), 400)
    mask = masking.draw(lengths, 400, generator(1))
    assert not torch.equal(mask[0], mask[1])
    assert torch.equal(mask, masking.draw(lengths, 400, generator(1)))
    assert not torch.equal(mask, masking.draw(lengths, 400, generator(2)))


def test_fill_is_fresh_noise_of_the_right_size():
    masking = SpanMasking(0.05, 10, 0.1, 0.8)
    features = torch.full((2, 30, 400), 7.0)
    mask = masking.draw(torch.full((2,), 400), 400, generator(1))
    filled = masking.fill(features, mask, 2)
    inside = filled.transpose(1, 2)[mask]
    assert torch.equal(filled.transpose(1, 2)[~mask], features.transpose(1, 2)[~mask])
    assert float(inside.std()) == pytest.approx(0.1, rel=0.05)
    assert abs(float(inside.mean())) < 4 * 0.1 / math.sqrt(inside.numel())
    assert len(inside.unique(dim=0)) == len(inside)  # no vector is used twice


def test_encoder_frame_counts_above_the_threshold():
    masking = SpanMasking(0.1, 10, 0.1, threshold=0.8)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1]]).bool()
    assert masking.encoder_frames(mask, 4).tolist() == [[True, False, False, False]]  # 4/4, 3/4, 0, and 3 of 4 at the end
    assert SpanMasking(0.1, 10, 0.1, 0.7).encoder_frames(mask, 4).tolist() == [[True, True, False, True]]
    assert masking.encoder_frames(mask, 8).tolist() == [[True, False]]  # 7/8 is above 0.8
