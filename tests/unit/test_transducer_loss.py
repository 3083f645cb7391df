"""The loss of transducers on a CPU against NeMo's, and against a closed form."""

from math import comb, log

import pytest
import torch
from nemo.collections.asr.losses.rnnt import RNNTLoss

from nemo_birq.losses.transducer import CpuTransducerLoss

pytestmark = pytest.mark.unit


def batch(seed: int) -> dict[str, torch.Tensor]:
    """Four utterances of different lengths, one without symbols: B = 4, T' = 9, U = 5, V = 6."""
    made = torch.Generator().manual_seed(seed)
    return {
        "log_probs": 3 * torch.randn(4, 9, 6, 7, generator=made),
        "targets": torch.randint(0, 6, (4, 5), generator=made),
        "input_lengths": torch.tensor([9, 7, 5, 1]),
        "target_lengths": torch.tensor([3, 5, 0, 2]),
    }


@pytest.mark.parametrize("reduction", ["mean_batch", "mean_volume", "sum", None])
@pytest.mark.parametrize("seed", [0, 1])
def test_values_and_gradients_are_those_of_nemo(reduction, seed):
    losses, gradients = [], []
    for loss in (RNNTLoss(6, reduction=reduction), CpuTransducerLoss(6, reduction)):
        inputs = batch(seed)
        logits = inputs["log_probs"].requires_grad_()
        value = loss(**inputs)
        value.sum().backward()
        losses.append(value.detach())
        gradients.append(logits.grad)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("frames", "symbols"), [(1, 0), (1, 3), (40, 12), (400, 150)])
def test_equal_probabilities_leave_the_number_of_paths(frames, symbols):
    loss = CpuTransducerLoss(9, None)
    value = loss(
        log_probs=torch.zeros(1, frames, symbols + 1, 10),
        targets=torch.zeros(1, symbols, dtype=torch.int64),
        input_lengths=torch.tensor([frames]),
        target_lengths=torch.tensor([symbols]),
    )
    paths = comb(frames - 1 + symbols, symbols)
    assert value.item() == pytest.approx((frames + symbols) * log(10) - log(paths), rel=1e-5)


def test_float16_logits_lose_no_precision():
    inputs = batch(2)
    inputs["log_probs"] = inputs["log_probs"].half()
    expected = RNNTLoss(6)(**inputs | {"log_probs": inputs["log_probs"].float()})
    assert CpuTransducerLoss(6)(**inputs).item() == pytest.approx(expected.item(), rel=1e-6)


def test_gradients_are_those_of_finite_differences():
    loss, inputs = CpuTransducerLoss(6, "sum"), batch(3)

    def probability(logits: torch.Tensor) -> torch.Tensor:
        return loss._loss.compute_forward_prob(
            logits.log_softmax(-1), inputs["targets"], inputs["input_lengths"], inputs["target_lengths"]
        )

    assert torch.autograd.gradcheck(probability, inputs["log_probs"].double().requires_grad_())
