"""Statistics of labels: their distribution over the codebook.

Shapes: N frames, H codebooks, V codes.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def histogram(labels: Tensor, num_codes: int) -> Tensor:
    """Counts each code: (N, H) int64 -> (H, V) float32."""
    counts = torch.zeros(labels.shape[1], num_codes, device=labels.device, dtype=torch.float32)
    return counts.scatter_add_(1, labels.T, torch.ones_like(labels.T, dtype=counts.dtype))


def entropy(counts: Tensor) -> Tensor:
    """Computes the entropy (nats) of the distribution given by counts (..., V)."""
    share = counts / counts.sum(dim=-1, keepdim=True).clamp(min=1)
    return torch.special.entr(share).sum(dim=-1)


def normalized(nats: float, num_codes: int, frames: float) -> float:
    """Divides an entropy by the largest value that the number of frames allows; the result is at most 1.

    Args:
        nats: entropy of the codes in use.
        num_codes: V.
        frames: N, the number of counted frames.
    """
    return min(1.0, nats / math.log(min(num_codes, max(2.0, frames))))


@dataclass
class CodeUse:
    """Distribution of labels over the codebook."""

    perplexity: float
    normalized_entropy: float
    top1: float
    coverage: float

    @classmethod
    def of(cls, counts: Tensor) -> "CodeUse":
        """Computes the statistics from the counts of each code, (H, V)."""
        nats = float(entropy(counts).mean())
        top1 = float((counts.amax(dim=1) / counts.sum(dim=1)).mean())
        share = normalized(nats, counts.shape[1], float(counts.sum(dim=1).mean()))
        return cls(math.exp(nats), share, top1, float((counts > 0).float().mean()))
