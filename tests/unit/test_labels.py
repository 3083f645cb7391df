"""Enhanced labels and the normalization before them."""

import math

import pytest
import torch

from nemo_birq.labels.enhanced import EnhancedLabeler, gumbel_noise
from nemo_birq.labels.normalization import LayerNormalization
from nemo_birq.labels.quantizer import RandomProjectionQuantizer, draw_codebook, draw_projection
from nemo_birq.modules.masking import positions
from tests.helpers import plain_loss
from tests.helpers.models import generator

pytestmark = pytest.mark.unit


def make_labeler(dim=16, codes=32, kind="per_feature", **changes) -> EnhancedLabeler:
    g = generator(3)
    quantizer = RandomProjectionQuantizer(draw_projection(dim, 1, 8, g), draw_codebook(1, codes, 8, g))
    options = {"logit_scale": 20.0, "temperature": 0.5, "hard": False, "label_gradient": 1.0} | changes
    return EnhancedLabeler(quantizer, LayerNormalization(dim, kind, 0.9), **options)


def make_hidden(frames=40, dim=16, seed=0):
    """Makes features like an encoder's: correlated, of different sizes, with a large common direction and huge padding."""
    g = generator(seed)
    mixing = torch.randn(dim, dim, generator=g) * torch.logspace(0, -1, dim)
    hidden = torch.randn(2, frames, dim, generator=g) @ mixing + 5 * torch.randn(dim, generator=g)
    valid = torch.arange(frames) < torch.tensor([[frames], [frames - 7]])
    hidden[~valid] = 1e4
    return hidden, valid


def select(targets, seed):
    return targets.select(slice(None), 0, generator(seed))


def test_soft_labels_are_the_formula():
    labeler = make_labeler()
    hidden, valid = make_hidden()
    frames = positions(valid & (torch.arange(40) % 3 == 0))
    labels = select(labeler(hidden, valid, frames), seed=7)
    units = labeler.quantizer.unit_vectors(labeler.normalization(hidden, valid, frames)).double()
    scores = torch.einsum("nhd,hvd->nhv", units, labeler.quantizer.codebook.double())
    noise = gumbel_noise(scores.float(), generator(7)).double()
    expected = torch.exp((20 * scores + noise) / 0.5)
    expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(labels.soft.double(), expected[:, 0], rtol=2e-4, atol=1e-7)
    assert torch.equal(labels.picked, expected[:, 0].argmax(-1))
    assert torch.equal(labels.nearest, scores[:, 0].argmax(-1))


def test_noise_is_gumbel():
    noise = gumbel_noise(torch.empty(200_000), generator(0))
    error = math.pi / math.sqrt(6 * len(noise))
    assert abs(float(noise.mean()) - 0.5772156649) < 4 * error
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, rel=0.03)
    assert float((noise < 1).double().mean()) == pytest.approx(math.exp(-math.exp(-1)), abs=0.005)


def test_picks_follow_the_softmax_of_the_scores():
    """The Gumbel-max theorem: codes are picked with probability softmax(logit_scale * scores), at any temperature."""
    labeler = make_labeler(codes=6, logit_scale=3.0, temperature=0.1, kind="layer_norm")
    hidden = torch.randn(1, 1, 16, generator=generator(1)).repeat(1, 40_000, 1)
    everything = torch.ones(1, 40_000, dtype=torch.bool)
    picked = select(labeler(hidden, everything, positions(everything)), seed=2).picked
    frequency = torch.bincount(picked.flatten(), minlength=6) / 40_000
    expected = (3 * labeler.quantizer.scores(torch.nn.functional.layer_norm(hidden[0, :1], (16,)))[0, 0]).softmax(-1)
    torch.testing.assert_close(frequency, expected, atol=0.012, rtol=0)


def test_hard_labels_are_the_picks():
    hidden, valid = make_hidden()
    soft, hard = (select(make_labeler(hard=h)(hidden, valid, positions(valid), generator(1)), seed=3) for h in (False, True))
    assert torch.equal(hard.labels, torch.nn.functional.one_hot(soft.picked, 32).float())
    assert torch.equal(hard.soft, soft.labels)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_label_gradient_scales_the_gradient_only(share):
    hidden, valid = make_hidden()
    leaf, full = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    soft = plain_loss.soft_labels(make_labeler(label_gradient=share)(leaf, valid, positions(valid), generator(1)))
    reference = plain_loss.soft_labels(make_labeler()(full, valid, positions(valid), generator(1)))
    torch.testing.assert_close(soft, reference)
    soft[..., 0].sum().backward()
    reference[..., 0].sum().backward()
    torch.testing.assert_close(leaf.grad, share * full.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("hard", [True, False])
def test_without_a_gradient_there_is_no_noise(hard, monkeypatch):
    """The labels are softmax(s) at any temperature, or the nearest codes, and no noise is drawn."""
    monkeypatch.setattr("nemo_birq.labels.enhanced.gumbel_noise", None)
    hidden, valid = make_hidden()
    labeler = make_labeler(label_gradient=0.0, hard=hard, temperature=0.1)
    targets = labeler(hidden.requires_grad_(), valid, positions(valid), generator(1))
    found, again = (select(targets, seed) for seed in (1, 2))
    scores = labeler.quantizer.scores(labeler.normalization(hidden, valid, positions(valid)))[:, 0].double()
    expected = torch.nn.functional.one_hot(scores.argmax(-1), 32).double() if hard else (20 * scores).softmax(-1)
    torch.testing.assert_close(found.labels.double(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(found.labels, again.labels) and torch.equal(found.picked, found.nearest)
    assert not targets.units.requires_grad


def test_per_feature_normalization_against_float64():
    hidden, valid = make_hidden()
    result = LayerNormalization(16, "per_feature", 0.9).train()(hidden, valid, positions(valid))
    frames = hidden[valid].double()
    expected = (frames - frames.mean(0)) / (frames.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4)


def test_whitening_against_float64():
    hidden, valid = make_hidden(frames=400)
    result = LayerNormalization(16, "whiten", 0.9).train()(hidden, valid, positions(valid)).double()
    frames = hidden[valid].double()
    covariance = torch.cov(frames.T, correction=0)
    ridge = 1e-3 * covariance.diagonal().mean() + 1e-5
    factor = torch.linalg.cholesky(covariance + ridge * torch.eye(16))
    expected = (frames - frames.mean(0)) @ torch.linalg.inv(factor).T
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)
    strong = torch.cov(result.T, correction=0)[:8, :8]  # directions well above the ridge are white
    torch.testing.assert_close(strong, torch.eye(8).double(), rtol=0, atol=0.02)


def test_inference_uses_running_statistics_and_no_neighbour():
    norm = LayerNormalization(16, "per_feature", 0.5).train()
    means, variances = [], []
    for seed in range(3):
        hidden, valid = make_hidden(seed=seed)
        norm(hidden, valid, positions(valid))
        means.append(hidden[valid].mean(0))
        variances.append(hidden[valid].var(0, correction=0))
    torch.testing.assert_close(norm.running_mean, 0.25 * means[0] + 0.25 * means[1] + 0.5 * means[2])
    torch.testing.assert_close(norm.running_covariance, 0.25 * variances[0] + 0.25 * variances[1] + 0.5 * variances[2])
    norm.eval()
    hidden, valid = make_hidden(seed=7)
    both = norm(hidden, valid, positions(valid))
    alone = norm(hidden[:1], valid[:1], positions(valid[:1]))
    assert torch.equal(both[: len(alone)], alone)
    assert norm.num_updates == 3


def test_running_statistics_are_an_exponential_average():
    norm = LayerNormalization(4, "per_feature", 0.5).train()
    everything = torch.ones(1, 10, dtype=torch.bool)
    for value in (0.0, 1.0, 5.0):
        norm(torch.full((1, 10, 4), value), everything, positions(everything))
    assert norm.running_mean.tolist() == [0.5 * (0.5 * 0 + 0.5 * 1) + 0.5 * 5] * 4


def test_whitening_survives_fewer_frames_than_features():
    hidden = torch.randn(1, 5, 16, generator=generator(1))
    everything = torch.ones(1, 5, dtype=torch.bool)
    result = LayerNormalization(16, "whiten", 0.9).train()(hidden, everything, positions(everything))
    assert torch.isfinite(result).all()


def test_statistics_carry_no_gradient():
    hidden, valid = make_hidden()
    norm = LayerNormalization(16, "per_feature", 0.9).train()
    leaf = hidden.clone().requires_grad_()
    norm(leaf, valid, torch.tensor([3])).sum().backward()
    assert int((leaf.grad.abs().sum(-1) > 0).sum()) == 1  # only the frame itself
