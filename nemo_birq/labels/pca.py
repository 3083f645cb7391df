"""Principal components in place of a random projection: the directions in which the frames differ most.

Shapes: N frames, E input width, H codebooks, d code dimension.
"""

import torch
from torch import Tensor

LEADING = 4
"""Several codebooks look at the first ``LEADING`` * d components, each after a rotation of its own."""


def principal_components(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the principal components of frames in float64 on the CPU, where all devices get the same ones.

    Args:
        frames: (N, E), of any mean.

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
    """Projects on principal components: (H, E, d) float32 with orthonormal columns for each codebook.

    A single codebook gets the first d components. Each of several gets a random rotation of the first 4 d, of which it sees
    d directions, so that the codebooks differ. The mean is not subtracted: normalized features have none.

    Args:
        frames: (N, E) with E at least d.
        num_books, code_dim: H and d.
        generator: of the rotations, on the host.
    """
    components, _ = principal_components(frames)
    if num_books == 1:
        return components[:, :code_dim].float().unsqueeze(0)
    leading = components[:, : LEADING * code_dim]
    width = leading.shape[1]
    random = torch.randn(num_books, width, width, generator=generator, dtype=torch.float64)
    rotations, _ = torch.linalg.qr(random)
    return (leading @ rotations[:, :, :code_dim]).float()
