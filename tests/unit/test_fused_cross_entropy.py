"""The fused objective, compared with the plain one: losses, codes, every gradient; chunks, precisions, memory."""

from dataclasses import replace

import pytest
import torch
from nemo.collections.asr.modules import MultiSoftmaxDecoder
from torch.utils._python_dispatch import TorchDispatchMode

from nemo_birq.labels.enhanced import EnhancedTargets
from nemo_birq.losses.bilevel import BilevelLoss
from nemo_birq.losses.fused_cross_entropy import default_chunk_frames
from tests.helpers import plain_loss

pytestmark = pytest.mark.unit
W1, W2 = 0.7, 1.3
FRAMES, WIDTH, CODES, DIM = 23, 6, 11, 4


def make_terms(
    books=1, shared=False, hard=False, bias=True, dtype=torch.float64, frames=FRAMES, codes=CODES, noisy=True
) -> dict:
    """Makes arguments of ``BilevelLoss`` with leaves that require gradients."""
    torch.manual_seed(0)
    heads = [
        MultiSoftmaxDecoder(feat_in=WIDTH, num_classes=codes, num_decoders=books, use_bias=bias).to(dtype) for _ in "ab"
    ]
    hidden = torch.randn(frames, WIDTH, dtype=dtype).requires_grad_()
    units = torch.nn.functional.normalize(torch.randn(frames, books, DIM, dtype=dtype), dim=-1).requires_grad_(noisy)
    codebook = torch.nn.functional.normalize(torch.randn(books, codes, DIM), dim=-1)
    return {
        "hidden": hidden,
        "anchor_labels": torch.randint(codes, (frames, books)),
        "anchor_head": heads[0],
        "enhanced_head": heads[0] if shared else heads[1],
        "targets": EnhancedTargets(units, codebook, logit_scale=5.0, temperature=0.5, hard=hard, noisy=noisy, seed=3),
        "enhanced_weight": W1,
        "anchor_weight": W2,
    }


def leaves(terms) -> dict:
    found = {"hidden": terms["hidden"]}
    if terms["targets"].units.requires_grad:
        found["units"] = terms["targets"].units
    for head in ("anchor_head", "enhanced_head"):
        found |= {f"{head}.{name}": parameter for name, parameter in terms[head].named_parameters()}
    return found


def gradients(loss, terms) -> dict:
    found = leaves(terms)
    values = torch.autograd.grad(loss, found.values(), retain_graph=True, allow_unused=True, materialize_grads=True)
    return dict(zip(found, values, strict=True))


def assert_same(found: dict, expected: dict, **tolerance):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("chunk", [1, 5, 23, 100])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("books", [1, 3])
def test_losses_and_all_gradients_in_float64(books, hard, shared, chunk):
    terms = make_terms(books, shared, hard)
    loss, found = BilevelLoss(chunk)(**terms)
    g, f = plain_loss.losses(terms, chunk)
    torch.testing.assert_close(loss, W1 * f + W2 * g)
    torch.testing.assert_close(found.anchor / FRAMES, g)
    torch.testing.assert_close(found.enhanced / FRAMES, f)
    expected = gradients(W1 * f + W2 * g, terms)
    assert expected["units"].abs().max() > 1e-4
    assert_same(gradients(loss, terms), expected)
    assert_same(gradients(3 * loss, terms), {name: 3 * value for name, value in expected.items()})  # of any function of it


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("hard", [True, False])
def test_labels_without_noise_in_float64(hard, shared):
    """Losses, gradients and logged statistics equal their definitions, for softmax(s) and for the nearest codes."""
    terms = make_terms(2, shared, hard, noisy=False)
    loss, found = BilevelLoss(5)(**terms)
    g, f = plain_loss.losses(terms, 5)
    torch.testing.assert_close(loss, W1 * f + W2 * g)
    assert_same(gradients(loss, terms), gradients(W1 * f + W2 * g, terms))
    labels = plain_loss.soft_labels(terms["targets"])
    assert torch.equal(found.picked, found.nearest) and torch.equal(found.picked, labels.argmax(-1))
    torch.testing.assert_close(found.label_mass, labels.sum(0).float())
    torch.testing.assert_close(found.floor, torch.special.entr(labels).sum() / 2)
    torch.testing.assert_close(found.reachable, labels.amax(-1).sum() / 2)
    predicted = plain_loss.log_probs(terms["enhanced_head"], terms["hidden"]).argmax(-1, keepdim=True)
    torch.testing.assert_close(found.correct, labels.gather(-1, predicted).sum() / 2)
    assert found.enhanced >= found.floor and found.correct <= found.reachable
    assert (float(found.floor) == 0) == hard


@pytest.mark.parametrize("hard", [True, False])
def test_what_the_log_says_of_picked_labels(hard):
    """Against many draws of the noise: picks follow softmax(s), whose entropy and largest probability bound the task."""
    terms = make_terms(hard=hard)
    found = [BilevelLoss(50)(**terms | {"targets": replace(terms["targets"], seed=seed)})[1] for seed in range(400)]
    expected = plain_loss.soft_labels(replace(terms["targets"], noisy=False, hard=False)).detach()
    torch.testing.assert_close(found[0].floor, torch.special.entr(expected).sum())
    torch.testing.assert_close(found[0].reachable, expected.amax(-1).sum())
    agreement = torch.stack([(one.picked == one.nearest).sum() for one in found]).double().mean()
    assert float(agreement) == pytest.approx(float(found[0].reachable), rel=0.05)
    mass = torch.stack([one.label_mass for one in found]).mean(0)
    torch.testing.assert_close(mass, expected.sum(0).float(), atol=0.4, rtol=0)
    assert float(found[0].correct) == float((found[0].picked == found[0].enhanced_predicted).sum())


def test_labels_without_noise_give_the_mean_gradient_of_picked_ones():
    """The gradient with softmax(s) is the mean of the gradients with picks, since the loss is linear in the label."""
    terms = make_terms(hard=True)
    terms["targets"] = terms["targets"].detached()
    quiet = terms | {"targets": replace(terms["targets"], noisy=False, hard=False)}
    exact = gradients(BilevelLoss()(**quiet)[0], quiet)["hidden"]
    draws = [terms | {"targets": replace(terms["targets"], seed=seed)} for seed in range(600)]
    sampled = torch.stack([gradients(BilevelLoss()(**one)[0], one)["hidden"] for one in draws])
    error = sampled.std(0) / 600**0.5
    assert ((sampled.mean(0) - exact).abs() < 5 * error + 1e-9).all() and error.max() > 0


@pytest.mark.parametrize(("w1", "w2"), [(0.0, 1.3), (0.7, 0.0)])
@pytest.mark.parametrize("shared", [True, False])
def test_a_task_without_weight_has_no_gradient(shared, w1, w2):
    terms = make_terms(shared=shared) | {"enhanced_weight": w1, "anchor_weight": w2}
    loss, found = BilevelLoss(7)(**terms)
    g, f = plain_loss.losses(terms, 7)
    assert_same(gradients(loss, terms), gradients(w1 * f + w2 * g, terms))
    torch.testing.assert_close(found.enhanced / FRAMES, f)  # but its loss is known


def test_without_enhanced_labels_both_heads_have_a_gradient():
    """DDP refuses parameters without one, and the second head waits for w1 > 0."""
    terms = make_terms() | {"targets": None}
    loss, found = BilevelLoss()(**terms)
    loss.backward()
    assert found.picked is None and float(found.enhanced) == 0
    assert all(not p.grad.any() for p in terms["enhanced_head"].parameters())
    g, _ = plain_loss.losses(make_terms() | {"targets": None})
    torch.testing.assert_close(loss, W2 * g)


def test_head_without_bias_and_constant_labels():
    terms = make_terms(bias=False)
    terms["targets"] = terms["targets"].detached()
    loss, _ = BilevelLoss(4)(**terms)
    g, f = plain_loss.losses(terms, 4)
    assert_same(gradients(loss, terms), gradients(W1 * f + W2 * g, terms))


def test_codes_are_those_of_the_formula():
    terms = make_terms(books=2)
    _, found = BilevelLoss(8)(**terms)
    soft = plain_loss.soft_labels(terms["targets"], 8)
    scores = torch.einsum("nhd,hvd->nhv", terms["targets"].units, terms["targets"].codebook.double())
    assert torch.equal(found.picked, soft.argmax(-1)) and torch.equal(found.nearest, scores.argmax(-1))
    assert torch.equal(found.anchor_predicted, plain_loss.log_probs(terms["anchor_head"], terms["hidden"]).argmax(-1))
    assert torch.equal(found.enhanced_predicted, plain_loss.log_probs(terms["enhanced_head"], terms["hidden"]).argmax(-1))


def test_nothing_is_differentiated_without_a_graph(monkeypatch):
    monkeypatch.setattr("nemo_birq.losses.fused_cross_entropy._of_logits", None)  # calling it would raise
    with torch.no_grad():
        loss, _ = BilevelLoss(5)(**make_terms())
    g, f = plain_loss.losses(make_terms(), 5)
    torch.testing.assert_close(loss, (W1 * f + W2 * g).detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_rounds_the_products_and_nothing_else(dtype):
    """Against the plain form under the same autocast, and no further from float64 than that is, by more than rounding."""
    exact, terms = make_terms(frames=400), make_terms(frames=400, dtype=torch.float32)
    for name, leaf in leaves(terms).items():  # equal numbers
        leaf.data.copy_(leaves(exact)[name])
    with torch.autocast("cpu", dtype=dtype):
        loss, found = BilevelLoss(64)(**terms)
        assert loss.dtype == found.enhanced.dtype == torch.float32
        g, f = plain_loss.losses(terms, 64)
    plain = W1 * f.float() + W2 * g.float()
    true_loss = sum(weight * part for weight, part in zip((W2, W1), plain_loss.losses(exact, 64), strict=True))
    torch.testing.assert_close(loss, plain, rtol=2e-3, atol=0)
    found, plain, true = gradients(loss, terms), gradients(plain, terms), gradients(true_loss, exact)
    for name, value in true.items():
        errors = [float((other[name].double() - value).norm() / value.norm()) for other in (found, plain)]
        assert errors[0] < max(1.5 * errors[1], 1e-5), (name, errors)
        assert found[name].dtype == torch.float32


class Largest(TorchDispatchMode):
    """Counts the elements of the largest tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_tensor_is_larger_than_a_chunk():
    terms = make_terms(frames=500, codes=300, dtype=torch.float32)
    with Largest() as fused:
        BilevelLoss(20)(**terms)[0].backward()
    with Largest() as plain:
        sum(plain_loss.losses(terms, 20)).backward()
    assert fused.elements == 20 * 300 and plain.elements == 500 * 300


@pytest.mark.parametrize(
    ("device_type", "codes", "frames"),
    [("cpu", 8192, 256), ("cuda", 8192, 4096), ("cuda", 256, 131072), ("cuda", 2**20, 256)],
)
def test_the_default_chunk_has_at_most_the_logits_that_fit_the_device(device_type, codes, frames):
    assert default_chunk_frames(device_type, codes) == frames


def test_the_default_chunk_of_a_cpu_limits_the_largest_tensor():
    terms = make_terms(frames=300, codes=300, dtype=torch.float32)
    with Largest() as fused:
        BilevelLoss()(**terms)[0].backward()
    assert fused.elements == 256 * 300


def test_no_masked_frame_gives_zero_with_a_graph():
    terms = make_terms(frames=0)
    loss, found = BilevelLoss()(**terms)
    loss.backward()
    assert float(loss) == 0 and found.picked.shape == (0, 1)
    assert terms["hidden"].grad.shape == (0, WIDTH) and not next(terms["anchor_head"].parameters()).grad.any()


def test_noise_follows_from_the_seed():
    terms = make_terms()
    first, again = (BilevelLoss(9)(**terms)[1].enhanced for _ in range(2))
    other = BilevelLoss(9)(**terms | {"targets": EnhancedTargets(**{**vars(terms["targets"]), "seed": 4})})[1].enhanced
    assert torch.equal(first, again) and not torch.equal(first, other)
