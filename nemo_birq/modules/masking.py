"""Masking of the encoder's input: spans of frames replaced by fresh noise (BEST-RQ, arXiv 2202.01855, section 3.1).

Shapes: B utterances, F mel bins, T feature frames (10 ms), S subsampling factor, T' = ceil(T / S) encoder frames.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_birq.utils.rng import seeded


def valid_frames(lengths: Tensor, num_frames: int) -> Tensor:
    """Converts lengths (B,) to a mask (B, num_frames) bool, true inside each utterance."""
    return torch.arange(num_frames, device=lengths.device) < lengths.unsqueeze(1)


def positions(selected: Tensor) -> Tensor:
    """Returns the positions of the true entries of a flattened (B, T') bool: (N,) int64. Waits for the device."""
    return selected.flatten().nonzero().squeeze(1)


class SpanMasking:
    """Masking with random spans, which are drawn independently for each utterance and may overlap.

    A span begins at every frame with probability p, also before the utterance, as if it were cut from a longer recording.
    Each frame is therefore masked with the same probability, ``coverage`` = 1 - (1 - p)^span, also at the edges and in
    utterances shorter than a span.

    Args:
        start_probability: p, in (0, 1); 0.01 in BEST-RQ.
        span_frames: length of a span in feature frames of 10 ms; 40 (400 ms) in BEST-RQ.
        noise_std: standard deviation of the Gaussian noise that replaces masked frames; 0.1 in BEST-RQ.
        threshold: an encoder frame counts as masked when more than this share of its S feature frames is; 0.8 in NeMo.
    """

    def __init__(self, start_probability: float, span_frames: int, noise_std: float, threshold: float):
        self.start_probability = start_probability
        self.span_frames = span_frames
        self.noise_std = noise_std
        self.threshold = threshold

    @property
    def coverage(self) -> float:
        """Expected share of masked feature frames, in [0, 1]."""
        return 1 - (1 - self.start_probability) ** self.span_frames

    def draw(self, lengths: Tensor, num_frames: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws a mask: (B,) lengths in frames -> (B, T) bool, true where masked, false in the padding.
        The mask is on the host, so that the predicted frames are known without waiting for the device.
        """
        shape = (lengths.shape[0], num_frames + self.span_frames - 1)
        starts = torch.rand(shape, generator=generator) < self.start_probability
        so_far = F.pad(starts.cumsum(dim=1, dtype=torch.int32), (1, 0))
        masked = so_far[:, self.span_frames :] > so_far[:, :num_frames]  # a span began within the last span_frames frames
        return masked & valid_frames(lengths, num_frames)

    def fill(self, features: Tensor, mask: Tensor, seed: int) -> Tensor:
        """Replaces the frames of mask (B, T) in features (B, F, T) by noise, which is fresh for every frame and utterance.

        Args:
            features, mask: tensors on the same device.
            seed: seed of the noise, which is drawn on the device.
        """
        generator = seeded(features.device, seed)
        noise = torch.randn(features.shape, device=features.device, dtype=features.dtype, generator=generator)
        return torch.where(mask.unsqueeze(1), noise * self.noise_std, features)

    def encoder_frames(self, mask: Tensor, subsampling: int, leading: int = 0) -> Tensor:
        """Converts a mask of feature frames (B, T) bool to encoder frames (B, T') bool; see
        ``frame_times.leading_frames``."""
        padded = F.pad(mask.float(), (leading, -(leading + mask.shape[1]) % subsampling))
        return padded.unflatten(1, (-1, subsampling)).mean(dim=-1) > self.threshold

    def masked_positions(self, mask: Tensor, subsampling: int, num_frames: int, leading: int = 0) -> Tensor:
        """Returns the masked encoder frames, which are predicted. All of them are inside the true lengths.

        Args:
            mask: (B, T) bool, on the host, so that the number of frames is known without waiting for the device.
            subsampling: S.
            num_frames: T' of the encoder.
            leading: result of ``frame_times.leading_frames``.

        Returns:
            (N,) int64 positions in the flattened (B, T').
        """
        frames = self.encoder_frames(mask, subsampling, leading)
        return positions(F.pad(frames, (0, num_frames - frames.shape[1])))  # the frames of padding may be cut off
