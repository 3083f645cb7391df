"""The bilevel objective in penalty form: w1 F + w2 G (BiRQ, arXiv 2509.15430).

    G = mean over masked frames of -log p(y_t | t)                       lower level: anchor labels y
    F = mean over masked frames of -sum_v y^(k)_{t,v} log p(v | t)       upper level: enhanced labels y^(k)

Shapes: N masked frames of this rank, V codes, H codebooks, D encoder width.
"""

from typing import Any, NamedTuple

import torch
from nemo.collections.asr.modules import MultiSoftmaxDecoder
from nemo.core import Loss, typecheck
from nemo.core.neural_types import EncodedRepresentation, LabelsType, LossType, NeuralType
from torch import Tensor

from nemo_birq.labels.enhanced import EnhancedTargets
from nemo_birq.losses.fused_cross_entropy import CrossEntropies, fused_cross_entropies
from nemo_birq.utils.distributed import sum_over_ranks, world_size


class Weights(NamedTuple):
    """Weights of the two tasks at one step."""

    enhanced: float
    anchor: float


class Losses(NamedTuple):
    """Result of a batch."""

    loss: Tensor
    """Scalar w1 F + w2 G of this rank, to be averaged over ranks."""
    health: dict[str, Any]
    """Arguments of ``monitoring.label_health.LabelHealth.update``."""
    terms: dict[str, Any]
    """Arguments of ``BilevelLoss``, with their graph."""


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

    def __init__(self, chunk_frames: int = 256):
        super().__init__()
        self.chunk_frames = chunk_frames

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "hidden": NeuralType(("B", "D"), EncodedRepresentation()),
            "anchor_labels": NeuralType(("B", "H"), LabelsType()),
            "anchor_head": NeuralType(),
            "enhanced_head": NeuralType(),
            "targets": NeuralType(optional=True),
            "enhanced_weight": NeuralType(optional=True),
            "anchor_weight": NeuralType(optional=True),
            "over_ranks": NeuralType(optional=True),
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {"loss": NeuralType(elements_type=LossType()), "cross_entropies": [NeuralType()]}

    @typecheck()
    def forward(
        self,
        hidden: Tensor,
        anchor_labels: Tensor,
        anchor_head: MultiSoftmaxDecoder,
        enhanced_head: MultiSoftmaxDecoder,
        targets: EnhancedTargets | None = None,
        enhanced_weight: float = 1.0,
        anchor_weight: float = 1.0,
        over_ranks: bool = True,
    ) -> tuple[Tensor, CrossEntropies]:
        """Loss of this rank.

        Args:
            hidden: (N, D) encoder output of the masked pass.
            anchor_labels: (N, H) int64.
            anchor_head, enhanced_head: predict the codes; one and the same where the head is shared.
            targets: what the enhanced labels follow from, or None where F is not computed (w1 = 0).
            enhanced_weight: w1.
            anchor_weight: w2.
            over_ranks: normalize over all ranks (training); else over this rank's frames.

        Returns:
            The scalar loss, and the sums over frames that it consists of, with the codes that were predicted and picked.
        """
        found = fused_cross_entropies(
            hidden, anchor_labels, anchor_head, enhanced_head, targets, anchor_weight, enhanced_weight, self.chunk_frames
        )
        count, ranks = torch.full_like(found.weighted, len(hidden)), 1
        if over_ranks:
            (count,), ranks = sum_over_ranks(count), world_size()
        return found.weighted * (ranks / count.clamp(min=1)), found
