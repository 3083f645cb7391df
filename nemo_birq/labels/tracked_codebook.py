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

UNUSED = 0.1  # of its fair share 1/V: below it a code is replaced by a frame
REPLACED_AT_ONCE = 0.01
"""Share of the codes that are replaced in a step at most. Unused codes fall below ``UNUSED`` together; replaced together,
they leave a head that has to learn most of its codes again."""


MANY = 10**6  # batches, after which any momentum is below the weight of the past in a plain average


class CodebookTracking(ExactBuffers):
    """Moves the codes of a codebook to the frames that are nearest to them.

    Args:
        num_books, num_codes, code_dim: H, V, d.
        momentum: weight of the past in the moving averages, in [0, 1). The first batches have equal weights, until the
            plain average is as long as the moving one.
    """

    shares: Tensor
    sums: Tensor
    tracked_batches: Tensor
    replaced: Tensor

    def __init__(self, num_books: int, num_codes: int, code_dim: int, momentum: float):
        super().__init__()
        self.momentum = momentum
        # Not persistent, as the quantizer's buffers; the model stores them beside the projections.
        self.register_buffer("shares", torch.zeros(num_books, num_codes), persistent=False)
        self.register_buffer("sums", torch.zeros(num_books, num_codes, code_dim), persistent=False)
        self.register_buffer("tracked_batches", torch.zeros((), dtype=torch.int64), persistent=False)
        # The largest share of the codes that one step has replaced since the log has read it, without the first batch.
        self.register_buffer("replaced", torch.zeros(()), persistent=False)

    def take_replaced(self) -> float:
        """Returns the largest share of the codes that a step has replaced since the last call; waits for the device."""
        share = float(self.replaced)
        self.replaced.zero_()
        return share

    def restart(self) -> None:
        """Forgets all frames, such as after a new projection: the next batch places all codes."""
        for buffer in (self.shares, self.sums, self.tracked_batches):
            buffer.zero_()

    def go_on_from_full_averages(self) -> None:
        """Weighs the past by ``momentum`` from now on: files of earlier versions lack the number of batches."""
        self.tracked_batches.copy_(torch.where(self.shares.sum() > 0, MANY, 0))

    @torch.no_grad()
    def update(self, codebook: Tensor, units: Tensor, nearest: Tensor, generator: torch.Generator | None = None) -> None:
        """Takes the masked frames of a batch, of all ranks, into the averages and moves the codes there.

        The first batch places all codes on frames. After it, codes with a share of the frames below a tenth of 1/V are
        replaced by frames of this batch, the least used first, 1 % of V in a step at most but at least one. The random
        draw is made on the host, and nothing here waits for the device.

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
        counts, sums, fresh = sum_over_ranks(counts, sums, _fresh_codes(units, num_codes, generator))
        frames = counts.sum(dim=1, keepdim=True)
        first, some = self.tracked_batches == 0, (frames > 0).all()
        past = torch.clamp(self.tracked_batches / (self.tracked_batches + 1), max=self.momentum).to(sums)
        past = torch.where(some, past, 1.0)
        frames = frames.clamp(min=1)
        self.shares.copy_(torch.lerp(counts / frames, self.shares, past))
        self.sums.copy_(torch.lerp(sums / frames.unsqueeze(2), self.sums, past))
        self.tracked_batches += some

        # Places 0 to V - 1 in the order of use; ``stable`` lets all ranks agree on the order of equals.
        place = torch.where(first, 0.0, self.shares).argsort(dim=1, stable=True).argsort(dim=1)
        fresh = fresh.gather(1, place.unsqueeze(2).expand_as(fresh))
        unused = (self.shares < UNUSED / num_codes) & (place < max(1, int(REPLACED_AT_ONCE * num_codes)))
        unused = (unused | first) & (fresh.square().sum(dim=2) > 0)  # a rank without masked frames gives no fresh codes
        self.shares.masked_fill_(unused, 1 / num_codes)
        self.sums.copy_(torch.where(unused.unsqueeze(2), fresh / num_codes, self.sums))
        moved = self.sums.square().sum(dim=2, keepdim=True) > 0
        codebook.copy_(torch.where(moved, F.normalize(self.sums, dim=2), codebook))
        self.replaced.copy_(torch.maximum(self.replaced, torch.where(first, 0.0, unused.float().mean())))


def _fresh_codes(units: Tensor, num_codes: int, generator: torch.Generator | None) -> Tensor:
    """Returns a frame of this rank at every W-th place and 0 at the others: (N, H, d) -> (H, V, d).

    Each frame comes once before one comes again, so that with N * W frames on W ranks the first N * W places differ.
    """
    places = torch.arange(num_codes)
    own = places % world_size() == rank()
    fresh = units.new_zeros(num_codes, *units.shape[1:])
    if len(units):
        drawn = torch.randperm(len(units), generator=generator)[places // world_size() % len(units)]
        fresh = units[to_device(drawn, units.device)] * to_device(own, units.device)[:, None, None]
    return fresh.transpose(0, 1)
