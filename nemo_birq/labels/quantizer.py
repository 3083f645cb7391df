"""Random-projection quantizer (BEST-RQ, arXiv 2202.01855): a fixed projection, a fixed codebook, nearest codes.

Shapes: N frames, E input width, H codebooks (num_books), V codes per codebook, d code dimension.

Reasons for the design of this file:

* Projection and codebook are buffers, not parameters: no optimizer, weight decay or DDP reduction can change them.
* They are drawn in float32 on the CPU from their own seeded generator: every rank gets the same values, and drawing them
  does not affect other random numbers.
* All arithmetic is float32 (float64 for float64 input), also under autocast: a bfloat16 product changes the nearest code.
* The nearest code of a unit vector is the one with the largest inner product: one matrix product replaces the N x d x V
  tensor of differences.
"""

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_birq.utils.precision import ExactBuffers


def draw_projection(in_dim: int, num_books: int, code_dim: int, generator: torch.Generator) -> Tensor:
    """Draws a Xavier-uniform random projection for each codebook: (H, E, d) float32."""
    bound = (6.0 / (in_dim + code_dim)) ** 0.5
    return (torch.rand(num_books, in_dim, code_dim, generator=generator) * 2 - 1) * bound


def draw_codebook(num_books: int, num_codes: int, code_dim: int, generator: torch.Generator) -> Tensor:
    """Draws codes uniformly on the unit sphere: (H, V, d) float32, rows of length 1."""
    return F.normalize(torch.randn(num_books, num_codes, code_dim, generator=generator), dim=-1)


CHUNK_FRAMES = 1024  # number of frames whose scores over all codes are in memory at a time


class RandomProjectionQuantizer(ExactBuffers):
    """Projects frames with a fixed random matrix onto the unit sphere and compares them with fixed codes.

    Args:
        projection: (H, E, d) float32.
        codebook: (H, V, d) float32, rows of unit length. Several quantizers may share the tensor.
    """

    projection: Tensor
    codebook: Tensor

    def __init__(self, projection: Tensor, codebook: Tensor):
        super().__init__()
        if projection.shape[0] != codebook.shape[0] or projection.shape[2] != codebook.shape[2]:
            raise ValueError(f"projection {tuple(projection.shape)} and codebook {tuple(codebook.shape)} do not fit")
        # Not persistent: the state dict must have the keys of the stock NeMo class, which loads our files strictly.
        self.register_buffer("projection", projection, persistent=False)
        self.register_buffer("codebook", codebook, persistent=False)

    def unit_vectors(self, frames: Tensor) -> Tensor:
        """Projects frames to unit length: (N, E) -> (N, H, d), float32 or the input's float64."""
        with torch.autocast(frames.device.type, enabled=False):
            frames = frames.to(torch.promote_types(frames.dtype, torch.float32))
            return F.normalize(torch.einsum("ne,hed->nhd", frames, self.projection.to(frames.dtype)), dim=-1)

    def scores(self, frames: Tensor) -> Tensor:
        """Computes the inner products of unit vectors and codes, in [-1, 1]: (N, E) -> (N, H, V)."""
        return self.scores_of_units(self.unit_vectors(frames))

    def scores_of_units(self, units: Tensor) -> Tensor:
        """Computes ``scores`` of projected frames: (N, H, d) -> (N, H, V)."""
        with torch.autocast(units.device.type, enabled=False):
            return torch.einsum("nhd,hvd->nhv", units, self.codebook.to(units.dtype))

    def nearest(self, frames: Tensor) -> Tensor:
        """Returns the indices of the nearest codes, computed in chunks of frames: (N, E) -> (N, H) int64 in [0, V)."""
        return self.nearest_of_units(self.unit_vectors(frames))

    @torch.no_grad()
    def nearest_of_units(self, units: Tensor) -> Tensor:
        """Returns ``nearest`` of projected frames: (N, H, d) -> (N, H)."""
        return torch.cat([self.scores_of_units(chunk).argmax(dim=-1) for chunk in units.split(CHUNK_FRAMES)])


def checksum(*tensors: Tensor) -> str:
    """Returns the SHA-256 (first 16 hex digits) of shapes and float32 bytes, to detect a changed projection or codebook."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]
