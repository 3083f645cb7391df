"""Choice of logit_scale from the frames: the scale at which the nearest code has a given share of the label.

The right scale depends on the number of codes and on their distance from the frames: with the default of 40, the nearest of
256 random codes has 0.7 of a label, and the nearest of 8192 codes that follow the frames has 0.28.

Shapes: N frames, H codebooks, V codes, d code dimension.
"""

import math

import torch
from nemo.utils import logging
from torch import Tensor

from nemo_birq.utils.distributed import sum_over_ranks

SMALLEST, LARGEST = 1.0, 10_000.0
HALVINGS = 12  # bisections of the logarithmic range, which reach the share to 0.001
FRAMES = 512  # number of evenly spaced frames of a batch from which the scale is chosen


class ScaleChoice:
    """Chooses the scale in the first batches of the enhanced task, and again each time the number of batches has doubled.
    Each choice replaces the previous one. The layer and the tracked codes change quickly at first and slowly later, and a
    choice at every batch would make the host wait for the device.

    Args:
        share: probability of the nearest code under softmax(s), averaged over frames and codebooks.
        batches: number of first batches that each make a choice.
    """

    def __init__(self, share: float, batches: int):
        self.share = share
        self.batches = batches
        self.value: float | None = None
        """The chosen scale; None before the first choice."""
        self.seen = 0
        """Number of batches of the enhanced task so far."""

    @torch.no_grad()
    def update(self, units: Tensor, codebook: Tensor) -> None:
        """Counts a batch and, if a choice is due, chooses from the frames of all ranks. Every rank must call it.

        Args:
            units: (N, H, d) frames of unit length; N may be 0 on some ranks.
            codebook: (H, V, d).
        """
        self.seen += 1
        doublings, rest = divmod(self.seen, self.batches)
        if self.seen > self.batches and (rest or doublings.bit_count() > 1):
            return
        chosen = units[:: max(1, -(-len(units) // FRAMES))].float()
        # Each rank chooses for its own frames, and the logarithms are averaged: one all-reduce instead of twelve.
        logarithm = torch.log(scale_of(self.share, chosen, codebook)) if len(chosen) else chosen.new_zeros(())
        total, ranks = sum_over_ranks(logarithm, torch.full_like(logarithm, float(len(chosen) > 0)))
        if float(ranks) > 0:
            self.value = math.exp(float(total) / float(ranks))
            if self.seen >= self.batches:
                logging.info(f"logit_scale={self.value:.3g} was chosen: the nearest code has {self.share:.0%} of a label.")

    def tensors(self) -> dict[str, Tensor]:
        """Returns the state of the choice, by the names of the tensors in the file."""
        value = math.nan if self.value is None else self.value
        return {
            "chosen_logit_scale": torch.tensor(value, dtype=torch.float64),
            "logit_scale_batches": torch.tensor(self.seen),
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Loads the state from the tensors of a file."""
        self.seen = int(tensors.get("logit_scale_batches", 0))
        value = float(tensors.get("chosen_logit_scale", math.nan))
        self.value = None if math.isnan(value) else value


def scale_of(share: float, units: Tensor, codebook: Tensor) -> Tensor:
    """Returns the scale at which the mean probability of the nearest code is ``share``, or the closest end of the range.

    Args:
        share: probability in (0, 1).
        units: (N, H, d) float32 frames of unit length, N > 0.
        codebook: (H, V, d).
    """
    with torch.autocast(units.device.type, enabled=False):
        scores = torch.einsum("nhd,hvd->nhv", units, codebook.to(units.dtype))
        scores -= scores.amax(dim=2, keepdim=True)
        low, high = (scores.new_tensor(math.log(end)) for end in (SMALLEST, LARGEST))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            # The score of the nearest code is 0, so its probability is one over the sum.
            too_soft = (scores * middle.exp()).exp_().sum(dim=2).reciprocal_().mean() < share
            low, high = torch.where(too_soft, middle, low), torch.where(too_soft, high, middle)
    return ((low + high) / 2).exp()
