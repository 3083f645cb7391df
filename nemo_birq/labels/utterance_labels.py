"""Labels of whole utterances.

Shapes: B utterances, T' encoder frames, N frames inside the true lengths, H codebooks.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Labels(NamedTuple):
    """Labels of whole utterances, without masking or noise; -1 in the padding."""

    anchor: Tensor
    """(B, T', H) int64, the anchor labels."""
    enhanced: Tensor
    """(B, T', H) int64, the enhanced labels: the nearest codes."""
    lengths: Tensor
    """(B,) int64, lengths in encoder frames."""


def pad_labels(anchor: Tensor, enhanced: Tensor, valid: Tensor, lengths: Tensor) -> Labels:
    """Arranges labels of single frames, 2 x (N, H), at the positions where ``valid`` (B, T') is true, with -1 elsewhere."""
    padded = [torch.full((*valid.shape, codes.shape[1]), -1, device=valid.device) for codes in (anchor, enhanced)]
    padded[0][valid], padded[1][valid] = anchor, enhanced
    return Labels(*padded, lengths)
