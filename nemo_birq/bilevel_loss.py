"""The bilevel objective in penalty form: w1 F + w2 G (BiRQ, arXiv 2509.15430).

    G = mean over masked frames of -log p(y_t | t)                       lower level: anchor labels y
    F = mean over masked frames of -sum_v y^(k)_{t,v} log p(v | t)       upper level: enhanced labels y^(k)

Shapes: N masked frames of this rank, V codes, H codebooks, D encoder width.
"""

from typing import NamedTuple

import torch
from nemo.collections.asr.modules import MultiSoftmaxDecoder
from nemo.core import Loss, typecheck
from nemo.core.neural_types import ElementType, LabelsType, LogprobsType, LossType, NeuralType
from torch import Tensor

from nemo_birq.distributed import sum_over_ranks, world_size


def predict(head: MultiSoftmaxDecoder, frames: Tensor) -> Tensor:
    """Log-probabilities of the head at selected frames: (N, D) -> (N, V, H), at least float32.

    The same numbers as ``head.forward`` gives there (tested), without computing all other frames, and defined for N = 0.
    """
    convolution = head.decoder_layers[0]
    logits = torch.nn.functional.linear(frames, convolution.weight.squeeze(-1), convolution.bias)
    logits = logits.unflatten(1, (head.num_classes, head.num_decoders))
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=1)


class Weights(NamedTuple):
    """Weights of the two tasks at one step."""

    enhanced: float
    anchor: float


class WeightSchedule:
    """w1 is 0 before ``start_step``, then rises linearly to its full value over ``ramp_steps``; w2 is constant.

    Early in training the layers know nothing that the raw input does not, and their labels collapse when they are trained
    upon. ``start_step = ramp_steps = 0`` is the paper's constant weight; ``enhanced_weight = 0`` is BEST-RQ.
    """

    def __init__(self, enhanced_weight: float, anchor_weight: float, start_step: int, ramp_steps: int):
        self.full = Weights(enhanced_weight, anchor_weight)
        self.start_step = start_step
        self.ramp_steps = ramp_steps

    def at(self, step: int) -> Weights:
        """Weights at an optimizer step, counted from 0."""
        if step < self.start_step:
            return self.full._replace(enhanced=0.0)
        progress = min(1.0, (step - self.start_step + 1) / (self.ramp_steps + 1))
        return self.full._replace(enhanced=progress * self.full.enhanced)


class BilevelLoss(Loss):
    """w1 F + w2 G, each a mean over the masked frames of all ranks and over codebooks.

    Every rank divides by the number of masked frames of all ranks over the number of ranks, so that the mean over ranks
    that DDP takes of the gradients is exact, also where ranks have different numbers of masked frames or none. Under
    gradient accumulation Lightning averages the micro-batches, each of them normalized by itself: exact only where they
    have equally many masked frames. A batch without masked frames has loss 0, with a graph.
    """

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "anchor_log_probs": NeuralType(("B", "C", "H"), LogprobsType()),
            "anchor_labels": NeuralType(("B", "H"), LabelsType()),
            "enhanced_log_probs": NeuralType(("B", "C", "H"), LogprobsType(), optional=True),
            "enhanced_labels": NeuralType(("B", "H", "C"), ElementType(), optional=True),
            "enhanced_weight": NeuralType(optional=True),
            "anchor_weight": NeuralType(optional=True),
            "over_ranks": NeuralType(optional=True),
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {
            "loss": NeuralType(elements_type=LossType()),
            "anchor_sum": NeuralType(elements_type=LossType()),
            "enhanced_sum": NeuralType(elements_type=LossType()),
        }

    @typecheck()
    def forward(
        self,
        anchor_log_probs: Tensor,
        anchor_labels: Tensor,
        enhanced_log_probs: Tensor | None = None,
        enhanced_labels: Tensor | None = None,
        enhanced_weight: float = 1.0,
        anchor_weight: float = 1.0,
        over_ranks: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of this rank.

        Args:
            anchor_log_probs: (N, V, H) predictions for the anchor labels.
            anchor_labels: (N, H) int64.
            enhanced_log_probs: (N, V, H) predictions for the enhanced labels; the same tensor where the head is shared.
            enhanced_labels: (N, H, V) distributions, or None where F is not computed (w1 = 0).
            enhanced_weight: w1.
            anchor_weight: w2.
            over_ranks: normalize over all ranks (training); else over this rank's frames.

        Returns:
            The scalar loss, and the sums over frames (nats, mean over codebooks) of the terms of G and F, detached.
        """
        count = anchor_log_probs.new_tensor(len(anchor_labels))
        ranks = 1
        if over_ranks:
            (count,), ranks = sum_over_ranks(count), world_size()
        normalizer = ranks / count.clamp(min=1)
        anchor = -anchor_log_probs.gather(1, anchor_labels.unsqueeze(1)).mean(dim=2).sum()
        loss = anchor_weight * anchor * normalizer
        enhanced = torch.zeros_like(anchor)
        if enhanced_labels is not None:
            with torch.autocast(enhanced_log_probs.device.type, enabled=False):  # a product would be taken in bfloat16
                cross_entropy = -torch.einsum("nhv,nvh->nh", enhanced_labels, enhanced_log_probs)
            enhanced = cross_entropy.mean(dim=1).sum()
            loss = loss + enhanced_weight * enhanced * normalizer
        return loss, anchor.detach(), enhanced.detach()
