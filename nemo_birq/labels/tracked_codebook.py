"""A codebook that follows the frames: online k-means on the unit sphere, in place of random codes for the enhanced labels.

Random codes lie where no frame does: many are hardly used, and a cell says little about what is in it. Here each code is the
moving average of the frames nearest to it, so that as many codes tell more about the frames. It costs one product of masked
frames and codes a step. It is not in the BiRQ paper; online clustering of a network's own layers is known from DinoSR
(arXiv 2305.10005), moving averages of codes from VQ-VAE (arXiv 1711.00937).

Shapes: N frames, H codebooks, V codes, d code dimension.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_birq.utils.distributed import rank, sum_over_ranks, world_size
from nemo_birq.utils.precision import ExactBuffers
from nemo_birq.utils.rng import to_device

UNUSED = 0.1  # of its fair share 1/V: below it a code begins anew at a frame


class CodebookTracking(ExactBuffers):
    """Moves the codes of a codebook to the frames that are nearest to them.

    Args:
        num_books, num_codes, code_dim: H, V, d.
        momentum: weight of the past in the moving averages, in [0, 1).
    """

    shares: Tensor
    sums: Tensor

    def __init__(self, num_books: int, num_codes: int, code_dim: int, momentum: float):
        super().__init__()
        self.momentum = momentum
        # Not persistent, as the quantizer's buffers; the model stores them beside the projections.
        self.register_buffer("shares", torch.zeros(num_books, num_codes), persistent=False)
        self.register_buffer("sums", torch.zeros(num_books, num_codes, code_dim), persistent=False)

    @torch.no_grad()
    def update(self, codebook: Tensor, units: Tensor, nearest: Tensor, generator: torch.Generator | None = None) -> None:
        """Takes the masked frames of a batch, of all ranks, into the averages and moves the codes there.

        A code whose share of the frames is below a tenth of 1/V begins anew at a frame of this batch, in the first
        batch all do. The random draw is made on the host, and nothing here waits for the device.

        Args:
            codebook: (H, V, d) float32, rows of unit length; overwritten.
            units: (N, H, d) frames of unit length.
            nearest: (N, H) int64, the nearest code of each.
            generator: on the host.
        """
        num_books, num_codes, _ = codebook.shape
        units = units.to(codebook.dtype)
        counts, sums = torch.zeros_like(self.shares), torch.zeros_like(self.sums)
        counts.scatter_add_(1, nearest.T, torch.ones_like(nearest.T, dtype=counts.dtype))
        for book in range(num_books):
            sums[book].index_add_(0, nearest[:, book], units[:, book])
        counts, sums, fresh = sum_over_ranks(counts, sums, self._fresh_codes(units, num_codes, generator))
        first = self.shares.sum(dim=1, keepdim=True) == 0
        frames = counts.sum(dim=1, keepdim=True)
        past = torch.where(frames > 0, self.momentum, 1.0)
        frames = frames.clamp(min=1)
        self.shares.copy_(torch.lerp(counts / frames, self.shares, past))
        self.sums.copy_(torch.lerp(sums / frames.unsqueeze(2), self.sums, past.unsqueeze(2)))

        # A rank without masked frames gives no fresh codes.
        unused = ((self.shares < UNUSED / num_codes) | first) & (fresh.square().sum(dim=2) > 0)
        self.shares.masked_fill_(unused, 1 / num_codes)
        self.sums.copy_(torch.where(unused.unsqueeze(2), fresh / num_codes, self.sums))
        moved = self.sums.square().sum(dim=2, keepdim=True) > 0
        codebook.copy_(torch.where(moved, F.normalize(self.sums, dim=2), codebook))

    @staticmethod
    def _fresh_codes(units: Tensor, num_codes: int, generator: torch.Generator | None) -> Tensor:
        """(H, V, d): frames of this rank, each once where there are enough, for every W-th code; 0 for the others."""
        own = torch.arange(num_codes) % world_size() == rank()
        fresh = units.new_zeros(num_codes, *units.shape[1:])
        if len(units):
            drawn = torch.randperm(len(units), generator=generator)[torch.arange(num_codes) % len(units)]
            fresh = units[to_device(drawn, units.device)] * to_device(own, units.device)[:, None, None]
        return fresh.transpose(0, 1)
