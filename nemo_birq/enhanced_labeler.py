"""Enhanced labels: a random projection of the model's own layer k, selected by Gumbel-softmax (BiRQ, arXiv 2509.15430).

Shapes: B utterances, T' encoder frames, D encoder width, N selected frames, H codebooks, V codes.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nemo_birq.layer_normalization import LayerNormalization
from nemo_birq.quantizer import RandomProjectionQuantizer


class EnhancedLabels(NamedTuple):
    """Labels of N frames."""

    soft: Tensor
    """(N, H, V) y^(k), a distribution over the codes for each frame; differentiable in the layer's output."""
    nearest: Tensor
    """(N, H) int64, the code that would be picked without Gumbel noise."""

    @property
    def picked(self) -> Tensor:
        """(N, H) int64, the code that was picked: the largest entry of ``soft``."""
        return self.soft.detach().argmax(dim=-1)


def gumbel_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Independent Gumbel(0, 1) variables of the shape of a tensor."""
    return torch.empty_like(like).exponential_(generator=generator).log().neg()


class EnhancedLabeler(nn.Module):
    """Turns the output of layer k into labels.

    Args:
        quantizer: projection of width D and codebook.
        normalization: of the layer's output, before the projection.
        logit_scale: factor on the inner products of unit vectors. Far below 40 the Gumbel noise decides, not the frame.
        temperature: tau of the Gumbel-softmax.
        hard: one-hot labels with the gradient of the soft ones (straight-through).
        label_gradient: factor on the gradient that reaches the layer's output; 1 is the paper, 0 is none.
    """

    def __init__(
        self,
        quantizer: RandomProjectionQuantizer,
        normalization: LayerNormalization,
        logit_scale: float,
        temperature: float,
        hard: bool,
        label_gradient: float,
    ):
        super().__init__()
        self.quantizer = quantizer
        self.normalization = normalization
        self.logit_scale = logit_scale
        self.temperature = temperature
        self.hard = hard
        self.label_gradient = label_gradient

    def forward(
        self,
        hidden: Tensor,
        valid: Tensor,
        frames: Tensor,
        generator: torch.Generator | None = None,
        update_statistics: bool = True,
    ) -> EnhancedLabels:
        """Labels of selected frames; y^(k)_t = softmax((logit_scale * C u_t + g_t) / tau), g_t Gumbel(0, 1).

        Args:
            hidden: (B, T', D) output of layer k for the unmasked input.
            valid: (B, T') bool, frames inside the true lengths.
            frames: (B, T') bool, the N frames to label.
            generator: of the Gumbel noise, on the device of ``hidden``.
            update_statistics: see ``LayerNormalization.forward``.
        """
        if self.label_gradient != 1:
            hidden = torch.lerp(hidden.detach(), hidden, self.label_gradient)
        scores = self.quantizer.scores(self.normalization(hidden, valid, frames, update_statistics))
        soft = ((self.logit_scale * scores + gumbel_noise(scores, generator)) / self.temperature).softmax(dim=-1)
        nearest = scores.detach().argmax(dim=-1)
        if self.hard:
            one_hot = torch.zeros_like(soft).scatter_(-1, soft.detach().argmax(dim=-1, keepdim=True), 1.0)
            soft = one_hot + (soft - soft.detach())
        return EnhancedLabels(soft, nearest)

    @torch.no_grad()
    def nearest(self, hidden: Tensor, valid: Tensor, frames: Tensor) -> Tensor:
        """Labels without Gumbel noise, the nearest codes: (N, H) int64. Arguments as in ``forward``."""
        return self.quantizer.nearest(self.normalization(hidden, valid, frames))
