"""Enhanced labels: a random projection of the model's own layer k, selected by Gumbel-softmax (BiRQ, arXiv 2509.15430).

The noise of Gumbel-softmax makes a random choice differentiable. It is not needed if no gradient passes through the labels:
the loss is linear in the label, so the mean label gives the same gradient on average, with less variance and at less cost.
By the Gumbel-max theorem the choice follows softmax(s), which is the label in that case.

Shapes: B utterances, T' encoder frames, D encoder width, N selected frames, H codebooks, d code dimension, V codes.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nemo_birq.labels.fitting import QuantizerFitting
from nemo_birq.labels.logit_scale import ScaleChoice
from nemo_birq.labels.normalization import LayerNormalization
from nemo_birq.labels.quantizer import RandomProjectionQuantizer
from nemo_birq.labels.tracked_codebook import CodebookTracking
from nemo_birq.utils.rng import draw_seed


class Selection(NamedTuple):
    """Labels of n frames from one codebook."""

    labels: Tensor
    """(n, V) y^(k), a distribution over the codes for each frame: ``soft``, or its largest entry as one-hot."""
    soft: Tensor
    """(n, V) the Gumbel-softmax; without noise, softmax(s)."""
    picked: Tensor
    """(n,) int64, the selected code: the largest entry of ``soft``."""
    nearest: Tensor
    """(n,) int64, the code that is selected without Gumbel noise."""
    expected: Tensor
    """(n, V) the mean label of a frame over the noise: softmax(s), the probability of each code; without noise,
    ``labels``."""


@dataclass(frozen=True)
class EnhancedTargets:
    """Inputs that define the enhanced labels of N frames. The labels, of size N x H x V, are computed when needed."""

    units: Tensor
    """(N, H, d) u_t, projected frames of unit length, float32 or float64; differentiable in the layer's output."""
    codebook: Tensor
    """(H, V, d), codes of unit length."""
    logit_scale: float
    temperature: float
    hard: bool
    noisy: bool
    """True if Gumbel noise is drawn; otherwise the temperature has no effect on the labels."""
    seed: int
    """Seed of the Gumbel noise."""

    def detached(self) -> "EnhancedTargets":
        """Returns the same targets without gradient."""
        return replace(self, units=self.units.detach())

    @torch.no_grad()
    def select(self, rows: slice, book: int, generator: torch.Generator) -> Selection:
        """Makes the labels of some frames for one codebook, from the scores s_t = logit_scale * C u_t.

        y^(k)_t = softmax((s_t + g_t) / tau), g_t Gumbel(0, 1), or softmax(s_t) without noise.

        Args:
            rows: selection of the N frames.
            book: number of the codebook.
            generator: generator of g_t, on the device of ``units``.
        """
        scores = self.units[rows, book] @ self.codebook[book].to(self.units.dtype).T
        nearest = scores.argmax(dim=1)
        expected = (scores * self.logit_scale).softmax(dim=1)
        if not self.noisy:
            labels = F.one_hot(nearest, scores.shape[1]).to(scores.dtype) if self.hard else expected
            return Selection(labels, expected, nearest, nearest, labels)
        logits = gumbel_noise(scores, generator).add_(scores, alpha=self.logit_scale).div_(self.temperature)
        soft = logits.softmax(dim=1)
        picked = soft.argmax(dim=1)
        labels = F.one_hot(picked, soft.shape[1]).to(soft.dtype) if self.hard else soft
        return Selection(labels, soft, picked, nearest, expected)


def gumbel_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws independent Gumbel(0, 1) variables of the shape of a tensor: -log(-log U), which is -inf where U is 0.
    On a CPU, PyTorch draws U six times as fast as exponential variables.
    """
    return torch.empty_like(like).uniform_(generator=generator).log_().neg_().log_().neg_()


class EnhancedLabeler(nn.Module):
    """Turns the output of layer k into labels.

    Args:
        quantizer: projection of width D and codebook.
        normalization: normalization of the layer output before the projection.
        logit_scale: factor on the inner products of unit vectors. Far below 40, the Gumbel noise dominates the labels.
        temperature: tau of the Gumbel-softmax.
        hard: one-hot labels with the gradient of the soft ones (straight-through); without a gradient, the nearest codes.
        label_gradient: factor on the gradient that reaches the layer output; the paper has 1; with 0 there is no noise.
        tracking: moves the codes towards the frames during training; None: the codes are fixed, as in the paper.
        fitting: fits projection, codes or both to the first frames; None: the projection is random, as in the paper.
        choice: chooses the scale from the first batches; None: the scale is ``logit_scale``.
    """

    def __init__(
        self,
        quantizer: RandomProjectionQuantizer,
        normalization: LayerNormalization,
        logit_scale: float,
        temperature: float,
        hard: bool,
        label_gradient: float,
        tracking: CodebookTracking | None = None,
        fitting: QuantizerFitting | None = None,
        choice: ScaleChoice | None = None,
    ):
        super().__init__()
        self.quantizer = quantizer
        self.normalization = normalization
        self._logit_scale = logit_scale
        self.temperature = temperature
        self.hard = hard
        self.label_gradient = label_gradient
        self.tracking = tracking
        self.fitting = fitting
        self.choice = choice

    @property
    def logit_scale(self) -> float:
        """Factor on the inner products: the chosen scale, or the argument ``logit_scale``."""
        return self._logit_scale if self.choice is None or self.choice.value is None else self.choice.value

    def forward(
        self,
        hidden: Tensor,
        valid: Tensor,
        frames: Tensor,
        generator: torch.Generator | None = None,
        update_statistics: bool = True,
    ) -> EnhancedTargets:
        """Computes the targets of selected frames.

        Args:
            hidden: (B, T', D) output of layer k for the unmasked input.
            valid: (B, T') bool, frames inside the true lengths.
            frames: (N,) int64, positions of the frames to label in the flattened (B, T').
            generator: generator of the seed of the Gumbel noise, on the host.
            update_statistics: update running averages (see ``LayerNormalization.forward``), tracked codebook and fit.
        """
        if self.label_gradient == 0:
            hidden = hidden.detach()
        elif self.label_gradient != 1:
            hidden = torch.lerp(hidden.detach(), hidden, self.label_gradient)
        normalized = self.normalization(hidden, valid, frames, update_statistics)
        update = self.training and update_statistics
        if update and self.fitting is not None and self.fitting.gather(normalized.detach()) and self.tracking is not None:
            self.tracking.restart()
        units = self.quantizer.unit_vectors(normalized)
        moving = codebook = self.quantizer.codebook
        if self.tracking is not None and update:
            # The labels come from the codes before they move: replaced codes are frames of this very batch, and would label
            # up to a third of it with codes that the head has never seen.
            codebook = moving.clone()
            self.tracking.update(moving, units.detach(), self.quantizer.nearest_of_units(units), generator)
        if self.choice is not None and update:
            self.choice.update(units.detach(), moving)
        return EnhancedTargets(
            units,
            codebook,
            self.logit_scale,
            self.temperature,
            self.hard,
            noisy=self.label_gradient > 0,
            seed=draw_seed(generator),
        )

    @torch.no_grad()
    def nearest(self, hidden: Tensor, valid: Tensor, frames: Tensor) -> Tensor:
        """Returns the labels without Gumbel noise, which are the nearest codes: (N, H) int64. Arguments as in
        ``forward``."""
        return self.quantizer.nearest(self.normalization(hidden, valid, frames))

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors that define the labels and are saved beside the model, by their names in the file."""
        fitting = self.fitting
        found = {} if fitting is None else fitting.tensors()
        if fitting is None or not fitting.projection:
            found["enhanced_projection"] = self.quantizer.projection
        if fitting is None or not fitting.codes:
            found["codebook" if self.tracking is None else "enhanced_codebook"] = self.quantizer.codebook
        for part in (self.normalization, self.tracking):
            found |= {} if part is None else dict(part.named_buffers())
        return found if self.choice is None else found | self.choice.tensors()
