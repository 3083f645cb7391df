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
    """Weights of the two tasks at a step."""

    enhanced: float
    anchor: float


class Losses(NamedTuple):
    """Losses of a batch."""

    loss: Tensor
    """Scalar w1 F + w2 G of this rank; the loss of the step is the mean over ranks."""
    health: dict[str, Any]
    """Arguments of ``monitoring.label_health.LabelHealth.update``."""
    terms: dict[str, Any]
    """Arguments of ``BilevelLoss``, with their autograd graph."""


class WeightSchedule:
    """Schedule of w1, which is 0 before ``start_step`` and rises linearly over ``ramp_steps``; w2 is constant.

    Early in training, the layers hold no more information than the input, and training on their labels makes the labels
    collapse. ``start_step = ramp_steps = 0`` is the constant weight of the paper; ``enhanced_weight = 0`` is BEST-RQ.
    """

    def __init__(self, enhanced_weight: float, anchor_weight: float, start_step: int, ramp_steps: int):
        self.full = Weights(enhanced_weight, anchor_weight)
        self.start_step = start_step
        self.ramp_steps = ramp_steps

    def at(self, step: int) -> Weights:
        """Returns the weights at an optimizer step, counted from 0."""
        if step < self.start_step:
            return self.full._replace(enhanced=0.0)
        progress = min(1.0, (step - self.start_step + 1) / (self.ramp_steps + 1))
        return self.full._replace(enhanced=progress * self.full.enhanced)


class BilevelLoss(Loss):
    """The loss w1 F + w2 G, each a mean over the masked frames of all ranks and over codebooks.

    Every rank divides by the mean number of masked frames per rank. The average of the gradients that DDP computes is then
    exact, also if ranks have different numbers of masked frames or none. With gradient accumulation, Lightning averages
    micro-batches that are normalized separately, which is exact only if they have equal numbers of masked frames. A batch
    without masked frames has loss 0, with a graph.

    Args:
        chunk_frames: see ``fused_cross_entropies``.
    """

    def __init__(self, chunk_frames: int | None = None):
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
        """Computes the loss of this rank.

        Args:
            hidden: (N, D) encoder output of the masked pass.
            anchor_labels: (N, H) int64.
            anchor_head, enhanced_head: heads that predict the codes; the same object if the head is shared.
            targets: definition of the enhanced labels, or None if F is not computed (w1 = 0).
            enhanced_weight: w1.
            anchor_weight: w2.
            over_ranks: normalize over all ranks (training); otherwise over the frames of this rank.

        Returns:
            The scalar loss, and its sums over frames with the predicted and selected codes.
        """
        found = fused_cross_entropies(
            hidden, anchor_labels, anchor_head, enhanced_head, targets, anchor_weight, enhanced_weight, self.chunk_frames
        )
        count, ranks = torch.full_like(found.weighted, len(hidden)), 1
        if over_ranks:
            (count,), ranks = sum_over_ranks(count), world_size()
        return found.weighted * (ranks / count.clamp(min=1)), found
