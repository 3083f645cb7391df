"""Projection on principal components, the directions in which the frames differ most, instead of a random projection.

Shapes: N frames, E input width, H codebooks, d code dimension.
"""

import torch
from torch import Tensor

LEADING = 4
"""Several codebooks use the first ``LEADING`` * d components, each after its own rotation."""


def principal_components(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the principal components of frames in float64 on the CPU, so that they do not depend on the device.

    Args:
        frames: (N, E), with any mean.

    Returns:
        The components as columns, (E, E) float64, the one with the largest variance first; their variances (E,). The
        largest entry of each component is positive.
    """
    frames = frames.cpu().double()
    centred = frames - frames.mean(dim=0)
    variances, components = torch.linalg.eigh(centred.T @ centred / max(1, len(frames)))
    variances, components = variances.flip(0), components.flip(1)
    largest = components.gather(0, components.abs().argmax(dim=0, keepdim=True))
    return components * largest.sign(), variances


def pca_projection(frames: Tensor, num_books: int, code_dim: int, generator: torch.Generator) -> Tensor:
    """Returns a projection on principal components: (H, E, d) float32 with orthonormal columns for each codebook.

    A single codebook gets the first d components. Each of several codebooks gets d directions of a random rotation of the
    first 4 d, so that the codebooks differ. The mean is not subtracted, because it is zero for normalized features.

    Args:
        frames: (N, E) with E at least d.
        num_books, code_dim: H and d.
        generator: generator of the rotations, on the host.
    """
    components, _ = principal_components(frames)
    if num_books == 1:
        return components[:, :code_dim].float().unsqueeze(0)
    leading = components[:, : LEADING * code_dim]
    width = leading.shape[1]
    random = torch.randn(num_books, width, width, generator=generator, dtype=torch.float64)
    rotations, _ = torch.linalg.qr(random)
    return (leading @ rotations[:, :, :code_dim]).float()
