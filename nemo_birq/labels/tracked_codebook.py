"""A codebook that follows the frames: online k-means on the unit sphere instead of random codes for the enhanced labels.

Random codes lie far from the frames: many are hardly used, and each describes its frames poorly. Here each code is the
moving average of its nearest frames, so that the same number of codes describes the frames better. The cost is one product
of masked frames and codes per step. The method is not in the BiRQ paper; online clustering of a network's own layers comes
from DinoSR (arXiv 2305.10005), and moving averages of codes come from VQ-VAE (arXiv 1711.00937).

Shapes: N frames, H codebooks, V codes, d code dimension.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_birq.utils.distributed import rank, sum_over_ranks, world_size
from nemo_birq.utils.precision import ExactBuffers
from nemo_birq.utils.rng import to_device

UNUSED = 0.1  # share of the average use 1/V, below which a frame replaces the code
REPLACED_AT_ONCE = 0.01
"""Largest share of the codes that a step replaces. Unused codes fall below ``UNUSED`` at the same time; if all were replaced
at once, the head would have to learn most of its codes again."""


MANY = 10**6  # number of batches for which a plain average weights the past more than any momentum


class CodebookTracking(ExactBuffers):
    """Moves the codes of a codebook towards their nearest frames.

    Args:
        num_books, num_codes, code_dim: H, V, d.
        momentum: weight of the past in the moving averages, in [0, 1). The first batches have equal weights, until the plain
            average is as long as the moving average.
    """

    shares: Tensor
    sums: Tensor
    tracked_batches: Tensor
    replaced: Tensor

    def __init__(self, num_books: int, num_codes: int, code_dim: int, momentum: float):
        super().__init__()
        self.momentum = momentum
        # Not persistent, like the quantizer's buffers; the model stores them beside the projections.
        self.register_buffer("shares", torch.zeros(num_books, num_codes), persistent=False)
        self.register_buffer("sums", torch.zeros(num_books, num_codes, code_dim), persistent=False)
        self.register_buffer("tracked_batches", torch.zeros((), dtype=torch.int64), persistent=False)
        # The largest share of the codes that a step has replaced since the last log line, without the first batch.
        self.register_buffer("replaced", torch.zeros(()), persistent=False)

    def take_replaced(self) -> float:
        """Returns the largest share of the codes that a step has replaced since the last call. Waits for the device."""
        share = float(self.replaced)
        self.replaced.zero_()
        return share

    def restart(self) -> None:
        """Resets the averages, for example after a new projection: the next batch initializes all codes."""
        for buffer in (self.shares, self.sums, self.tracked_batches):
            buffer.zero_()

    def go_on_from_full_averages(self) -> None:
        """Weights the past by ``momentum`` from now on, because files of earlier versions lack the number of batches."""
        self.tracked_batches.copy_(torch.where(self.shares.sum() > 0, MANY, 0))

    @torch.no_grad()
    def update(self, codebook: Tensor, units: Tensor, nearest: Tensor, generator: torch.Generator | None = None) -> None:
        """Updates the averages with the masked frames of all ranks, and moves the codes.
        The first batch initializes all codes with frames. Later, frames of the batch replace codes whose share of the frames
        is below a tenth of 1/V: the least used first, and at most 1 % of V per step but at least one. The random numbers are
        drawn on the host, and nothing here waits for the device.

        Args:
            codebook: (H, V, d) float32, rows of unit length; overwritten.
            units: (N, H, d) frames of unit length.
            nearest: (N, H) int64, the nearest codes.
            generator: generator on the host.
        """
        num_books, num_codes, _ = codebook.shape
        units = units.to(codebook.dtype)
        counts, sums = torch.zeros_like(self.shares), torch.zeros_like(self.sums)
        counts.scatter_add_(1, nearest.T, torch.ones_like(nearest.T, dtype=counts.dtype))
        for book in range(num_books):
            sums[book].index_add_(0, nearest[:, book], units[:, book])
        counts, sums, fresh = sum_over_ranks(counts, sums, _fresh_codes(units, num_codes, generator))
        frames = counts.sum(dim=1, keepdim=True)
        first, some = self.tracked_batches == 0, (frames > 0).all()
        past = torch.clamp(self.tracked_batches / (self.tracked_batches + 1), max=self.momentum).to(sums)
        past = torch.where(some, past, 1.0)
        frames = frames.clamp(min=1)
        self.shares.copy_(torch.lerp(counts / frames, self.shares, past))
        self.sums.copy_(torch.lerp(sums / frames.unsqueeze(2), self.sums, past))
        self.tracked_batches += some

        # Ranks 0 to V - 1 in the order of use; with ``stable``, all processes order equal values in the same way.
        place = torch.where(first, 0.0, self.shares).argsort(dim=1, stable=True).argsort(dim=1)
        fresh = fresh.gather(1, place.unsqueeze(2).expand_as(fresh))
        unused = (self.shares < UNUSED / num_codes) & (place < max(1, int(REPLACED_AT_ONCE * num_codes)))
        unused = (unused | first) & (fresh.square().sum(dim=2) > 0)  # a rank without masked frames has no new codes
        self.shares.masked_fill_(unused, 1 / num_codes)
        self.sums.copy_(torch.where(unused.unsqueeze(2), fresh / num_codes, self.sums))
        moved = self.sums.square().sum(dim=2, keepdim=True) > 0
        codebook.copy_(torch.where(moved, F.normalize(self.sums, dim=2), codebook))
        self.replaced.copy_(torch.maximum(self.replaced, torch.where(first, 0.0, unused.float().mean())))


def _fresh_codes(units: Tensor, num_codes: int, generator: torch.Generator | None) -> Tensor:
    """Returns frames of this rank at every W-th position and 0 at the others: (N, H, d) -> (H, V, d).
    Frames repeat only after all have been used, so with N * W frames on W ranks the first N * W positions differ.
    """
    places = torch.arange(num_codes)
    own = places % world_size() == rank()
    fresh = units.new_zeros(num_codes, *units.shape[1:])
    if len(units):
        drawn = torch.randperm(len(units), generator=generator)[places // world_size() % len(units)]
        fresh = units[to_device(drawn, units.device)] * to_device(own, units.device)[:, None, None]
    return fresh.transpose(0, 1)
