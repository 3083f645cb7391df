"""Anchor labels: labels of the unmasked input that do not depend on the trained model.

Shapes: B utterances, F mel bins, T feature frames, S subsampling factor, T' = ceil(T / S), N selected frames, H codebooks.
"""

from typing import Protocol

import torch.nn.functional as F
from nemo.collections.asr.parts.preprocessing.features import normalize_batch
from torch import Tensor, nn

from nemo_birq.labels.fitting import QuantizerFitting
from nemo_birq.labels.quantizer import RandomProjectionQuantizer
from nemo_birq.modules.masking import valid_frames


class AnchorLabeler(Protocol):
    """Labels the unmasked input: ``RandomProjectionLabeler``, or ``teacher.TeacherLabeler`` in offline relabelling."""

    first_frame: float
    """Middle of the first label, in feature frames."""
    fitting: QuantizerFitting | None
    """Fitting of the quantizer in the first steps of a run; None if it is not fitted."""

    def __call__(self, features: Tensor, lengths: Tensor, frames: Tensor, num_frames: int) -> Tensor:
        """Computes the labels of selected encoder frames.

        Args:
            features: (B, F, T) log-mel features of the unmasked input, as the encoder gets them.
            lengths: (B,) int64, in feature frames.
            frames: (N,) int64, positions of the encoder frames to label in the flattened (B, T').
            num_frames: T' of the encoder.

        Returns:
            (N, H) int64 in [0, V).
        """

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors that define the labels and are saved beside the model, by their names in the file."""


def stack_frames(features: Tensor, subsampling: int, leading: int = 0) -> Tensor:
    """Concatenates S neighbouring feature frames, the earliest first: (B, F, T) -> (B, T', S * F), zero-padded in time.

    Args:
        features: (B, F, T).
        subsampling: S.
        leading: zero frames before the first; see ``frame_times.leading_frames``.
    """
    padded = F.pad(features, (leading, -(leading + features.shape[2]) % subsampling))
    return padded.transpose(1, 2).unflatten(1, (-1, subsampling)).flatten(2)


class RandomProjectionLabeler(nn.Module):
    """Nearest codes of stacked input frames (BEST-RQ, arXiv 2202.01855).

    The input must be normalized per feature over time; otherwise nearly all frames share a code.

    Args:
        quantizer: projection of width S * F, and codebook.
        subsampling: S.
        leading: zero frames before the first feature frame; see ``frame_times.leading_frames``.
        normalize: normalize each feature over the utterance; False if the preprocessor does.
        fitting: fitting of the quantizer in the first steps of a run; None keeps the random values, as in BEST-RQ.
    """

    def __init__(
        self, quantizer: RandomProjectionQuantizer, subsampling: int, leading: int = 0, normalize: bool = False,
        fitting: QuantizerFitting | None = None,
    ):  # fmt: skip
        super().__init__()
        self.fitting = fitting
        self.quantizer = quantizer
        self.subsampling = subsampling
        self.leading = leading
        self.normalize = normalize
        self.first_frame = (subsampling - 1) / 2 - leading

    def forward(self, features: Tensor, lengths: Tensor, frames: Tensor, num_frames: int) -> Tensor:
        """Computes the labels; see ``AnchorLabeler.__call__``."""
        if self.normalize:
            features, _, _ = normalize_batch(features.float(), lengths, "per_feature")
        inside = valid_frames(lengths, features.shape[2]).unsqueeze(1)
        stacked = stack_frames(features.masked_fill(~inside, 0.0), self.subsampling, self.leading)
        stacked = F.pad(stacked, (0, 0, 0, num_frames - stacked.shape[1]))  # the frames of padding may be cut off
        inputs = stacked.flatten(0, 1)[frames]
        if self.fitting is not None:
            self.fitting.gather(inputs)
        return self.quantizer.nearest(inputs)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors: the random ones, to which the checksum belongs, and the fitted ones."""
        if self.fitting is not None:
            return self.fitting.tensors()
        return {"anchor_projection": self.quantizer.projection, "codebook": self.quantizer.codebook}
