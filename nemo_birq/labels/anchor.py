"""Anchor labels: the nearest codes of the raw input (BEST-RQ, arXiv 2202.01855); they never depend on the model.

Shapes: B utterances, F mel bins, T feature frames, S subsampling factor, T' = ceil(T / S), N selected frames, H codebooks.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from nemo_birq.labels.quantizer import RandomProjectionQuantizer


def stack_frames(features: Tensor, subsampling: int) -> Tensor:
    """Concatenates S neighbouring feature frames, the earliest first: (B, F, T) -> (B, T', S * F), zero-padded in time."""
    padded = F.pad(features, (0, -features.shape[2] % subsampling))
    return padded.transpose(1, 2).unflatten(1, (-1, subsampling)).flatten(2)


class AnchorLabeler(nn.Module):
    """Labels the unmasked input. It must be normalized per feature over time, else nearly all frames share a code."""

    def __init__(self, quantizer: RandomProjectionQuantizer, subsampling: int):
        super().__init__()
        self.quantizer = quantizer
        self.subsampling = subsampling

    def forward(self, features: Tensor, frames: Tensor, num_frames: int, lengths: Tensor | None = None) -> Tensor:
        """Labels of selected encoder frames.

        Args:
            features: (B, F, T) normalized log-mel features of the unmasked input.
            frames: (N,) int64, positions of the encoder frames to label in the flattened (B, T').
            num_frames: T' of the encoder.
            lengths: (B,) of the features; needed by ``relabelling.labeler.TeacherLabeler``, which takes this one's place.

        Returns:
            (N, H) int64 in [0, V).
        """
        stacked = stack_frames(features, self.subsampling)
        stacked = F.pad(stacked, (0, 0, 0, num_frames - stacked.shape[1]))  # causal subsampling adds a frame
        return self.quantizer.nearest(stacked.flatten(0, 1)[frames])
