"""Enhanced labels and the normalization before them."""

import math

import pytest
import torch

from nemo_birq.enhanced_labeler import EnhancedLabeler, gumbel_noise
from nemo_birq.layer_normalization import LayerNormalization
from nemo_birq.quantizer import RandomProjectionQuantizer, draw_codebook, draw_projection
from tests.conftest import generator

pytestmark = pytest.mark.unit


def make_labeler(dim=16, codes=32, kind="per_feature", statistics="batch", **changes) -> EnhancedLabeler:
    g = generator(3)
    quantizer = RandomProjectionQuantizer(draw_projection(dim, 1, 8, g), draw_codebook(1, codes, 8, g))
    options = {"logit_scale": 20.0, "temperature": 0.5, "hard": False, "label_gradient": 1.0} | changes
    return EnhancedLabeler(quantizer, LayerNormalization(dim, kind, statistics, 0.9), **options)


def make_hidden(frames=40, dim=16, seed=0):
    """Features as encoders have them: correlated, of different sizes, with a large common direction; padded frames huge."""
    g = generator(seed)
    mixing = torch.randn(dim, dim, generator=g) * torch.logspace(0, -1, dim)
    hidden = torch.randn(2, frames, dim, generator=g) @ mixing + 5 * torch.randn(dim, generator=g)
    valid = torch.arange(frames) < torch.tensor([[frames], [frames - 7]])
    hidden[~valid] = 1e4
    return hidden, valid


def test_soft_labels_are_the_formula():
    labeler = make_labeler()
    hidden, valid = make_hidden()
    frames = valid & (torch.arange(40) % 3 == 0)
    labels = labeler(hidden, valid, frames, generator(7))
    units = labeler.quantizer.unit_vectors(labeler.normalization(hidden, valid, frames)).double()
    scores = torch.einsum("nhd,hvd->nhv", units, labeler.quantizer.codebook.double())
    noise = gumbel_noise(scores.float(), generator(7)).double()
    expected = torch.exp((20 * scores + noise) / 0.5)
    expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(labels.soft.double(), expected, rtol=2e-4, atol=1e-7)
    assert torch.equal(labels.nearest, scores.argmax(-1))


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
    picked = labeler(hidden, everything, everything, generator(2)).picked
    frequency = torch.bincount(picked.flatten(), minlength=6) / 40_000
    expected = (3 * labeler.quantizer.scores(torch.nn.functional.layer_norm(hidden[0, :1], (16,)))[0, 0]).softmax(-1)
    torch.testing.assert_close(frequency, expected, atol=0.012, rtol=0)


def test_hard_labels_are_one_hot_with_the_soft_gradient():
    hidden, valid = make_hidden()
    gradients = []
    for hard in (False, True):
        labeler = make_labeler(hard=hard)
        leaf = hidden.clone().requires_grad_()
        soft = labeler(leaf, valid, valid, generator(1)).soft
        weight = torch.randn(soft.shape, generator=generator(5))
        (soft * weight).sum().backward()
        gradients.append(leaf.grad)
    assert torch.allclose(soft.detach().sum(-1), torch.ones_like(soft[..., 0]))
    assert torch.allclose(soft.detach().amax(-1), torch.ones_like(soft[..., 0]))
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_label_gradient_scales_the_gradient_only(share):
    hidden, valid = make_hidden()
    leaf, full = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    soft = make_labeler(label_gradient=share)(leaf, valid, valid, generator(1)).soft
    reference = make_labeler()(full, valid, valid, generator(1)).soft
    torch.testing.assert_close(soft, reference)
    soft[..., 0].sum().backward()
    reference[..., 0].sum().backward()
    torch.testing.assert_close(leaf.grad, share * full.grad, rtol=1e-3, atol=1e-6)


def test_per_feature_normalization_against_float64():
    hidden, valid = make_hidden()
    result = LayerNormalization(16, "per_feature", "batch", 0.9).train()(hidden, valid, valid)
    frames = hidden[valid].double()
    expected = (frames - frames.mean(0)) / (frames.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4)


def test_whitening_against_float64():
    hidden, valid = make_hidden(frames=400)
    result = LayerNormalization(16, "whiten", "batch", 0.9).train()(hidden, valid, valid).double()
    frames = hidden[valid].double()
    covariance = torch.cov(frames.T, correction=0)
    ridge = 1e-3 * covariance.diagonal().mean() + 1e-5
    factor = torch.linalg.cholesky(covariance + ridge * torch.eye(16))
    expected = (frames - frames.mean(0)) @ torch.linalg.inv(factor).T
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)
    strong = torch.cov(result.T, correction=0)[:8, :8]  # directions well above the ridge are white
    torch.testing.assert_close(strong, torch.eye(8).double(), rtol=0, atol=0.02)


def test_inference_uses_running_statistics_and_no_neighbour():
    norm = LayerNormalization(16, "per_feature", "batch", 0.5).train()
    means, variances = [], []
    for seed in range(3):
        hidden, valid = make_hidden(seed=seed)
        norm(hidden, valid, valid)
        means.append(hidden[valid].mean(0))
        variances.append(hidden[valid].var(0, correction=0))
    torch.testing.assert_close(norm.running_mean, 0.25 * means[0] + 0.25 * means[1] + 0.5 * means[2])
    torch.testing.assert_close(norm.running_covariance, 0.25 * variances[0] + 0.25 * variances[1] + 0.5 * variances[2])
    norm.eval()
    hidden, valid = make_hidden(seed=7)
    both = norm(hidden, valid, valid)
    alone = norm(hidden[:1], valid[:1], valid[:1])
    assert torch.equal(both[: len(alone)], alone)
    assert norm.num_updates == 3


def test_running_statistics_are_an_exponential_average():
    norm = LayerNormalization(4, "per_feature", "running", 0.5).train()
    everything = torch.ones(1, 10, dtype=torch.bool)
    for value in (0.0, 1.0, 5.0):
        norm(torch.full((1, 10, 4), value), everything, everything)
    assert norm.running_mean.tolist() == [0.5 * (0.5 * 0 + 0.5 * 1) + 0.5 * 5] * 4


def test_whitening_survives_fewer_frames_than_features():
    hidden = torch.randn(1, 5, 16, generator=generator(1))
    everything = torch.ones(1, 5, dtype=torch.bool)
    result = LayerNormalization(16, "whiten", "batch", 0.9).train()(hidden, everything, everything)
    assert torch.isfinite(result).all()


def test_statistics_carry_no_gradient():
    hidden, valid = make_hidden()
    norm = LayerNormalization(16, "per_feature", "batch", 0.9).train()
    leaf = hidden.clone().requires_grad_()
    one = torch.zeros_like(valid)
    one[0, 3] = True
    norm(leaf, valid, one).sum().backward()
    assert int((leaf.grad.abs().sum(-1) > 0).sum()) == 1  # only the frame itself
