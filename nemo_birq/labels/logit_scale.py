"""Chooses logit_scale from the frames: the scale at which a given share of the label lies on the nearest code.

The scale that suits depends on the number of codes and on how closely they lie around the frames: with the default of 40 the
nearest of 256 random codes has 0.7 of a label, the nearest of 8192 codes that follow the frames has 0.28.

Shapes: N frames, H codebooks, V codes, d code dimension.
"""

import math

import torch
from nemo.utils import logging
from torch import Tensor

from nemo_birq.utils.distributed import sum_over_ranks

SMALLEST, LARGEST = 1.0, 10_000.0
HALVINGS = 12  # of the range, in logarithms: the share is then met to 0.001
FRAMES = 512  # of a batch, evenly chosen, that the scale is chosen from


class ScaleChoice:
    """Chooses the scale in the first batches of the enhanced task, and again whenever their number has doubled.

    Each choice replaces the one before. The layer and tracked codes move quickly at first and ever more slowly later, and a
    choice at every batch would let the host wait for the device.

    Args:
        share: probability of the nearest code under softmax(s), averaged over frames and codebooks.
        batches: first batches, all of which choose.
    """

    def __init__(self, share: float, batches: int):
        self.share = share
        self.batches = batches
        self.value: float | None = None
        """The choice; None before the first."""
        self.seen = 0
        """Batches of the enhanced task so far."""

    @torch.no_grad()
    def update(self, units: Tensor, codebook: Tensor) -> None:
        """Counts a batch, and chooses from the frames of all ranks if it is due. Every rank must call it.

        Args:
            units: (N, H, d) frames of unit length; N may be 0 on some ranks.
            codebook: (H, V, d).
        """
        self.seen += 1
        doublings, rest = divmod(self.seen, self.batches)
        if self.seen > self.batches and (rest or doublings.bit_count() > 1):
            return
        chosen = units[:: max(1, -(-len(units) // FRAMES))].float()
        # Each rank chooses for its own frames, and the mean of the logarithms counts: one exchange in place of twelve.
        logarithm = torch.log(scale_of(self.share, chosen, codebook)) if len(chosen) else chosen.new_zeros(())
        total, ranks = sum_over_ranks(logarithm, torch.full_like(logarithm, float(len(chosen) > 0)))
        if float(ranks) > 0:
            self.value = math.exp(float(total) / float(ranks))
            if self.seen >= self.batches:
                logging.info(f"logit_scale={self.value:.3g}: there {self.share:.0%} of a label is on the nearest code.")

    def tensors(self) -> dict[str, Tensor]:
        """Returns the choice, by its names in the file."""
        value = math.nan if self.value is None else self.value
        return {
            "chosen_logit_scale": torch.tensor(value, dtype=torch.float64),
            "logit_scale_batches": torch.tensor(self.seen),
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Goes on from the tensors of a file."""
        self.seen = int(tensors.get("logit_scale_batches", 0))
        value = float(tensors.get("chosen_logit_scale", math.nan))
        self.value = None if math.isnan(value) else value


def scale_of(share: float, units: Tensor, codebook: Tensor) -> Tensor:
    """Returns the scale at which the nearest code has the probability ``share`` in the mean; the nearer end where none has.

    Args:
        share: in (0, 1).
        units: (N, H, d) float32 frames of unit length, N > 0.
        codebook: (H, V, d).
    """
    with torch.autocast(units.device.type, enabled=False):
        scores = torch.einsum("nhd,hvd->nhv", units, codebook.to(units.dtype))
        scores -= scores.amax(dim=2, keepdim=True)
        low, high = (scores.new_tensor(math.log(end)) for end in (SMALLEST, LARGEST))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            # The nearest code has the score 0, so that its probability is one over the sum.
            too_soft = (scores * middle.exp()).exp_().sum(dim=2).reciprocal_().mean() < share
            low, high = torch.where(too_soft, middle, low), torch.where(too_soft, high, middle)
    return ((low + high) / 2).exp()
