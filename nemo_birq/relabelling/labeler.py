"""Anchor labels of a second stage: those of a frozen teacher.

Shapes: B utterances, F mel bins, T feature frames, T' encoder frames, N selected frames.
"""

from torch import Tensor

from nemo_birq.anchor_labeler import AnchorLabeler
from nemo_birq.quantizer import RandomProjectionQuantizer
from nemo_birq.relabelling.teacher import Teacher


class TeacherLabeler(AnchorLabeler):
    """Takes the place of ``AnchorLabeler``: the labels that the teacher gives the unmasked input, with one codebook.

    Labels of a batch in training are those that offline extraction would have written, up to rounding and the dither that
    the preprocessor adds in training.

    Args:
        quantizer: unused for labels; its tensors stay in the files, as with any other model.
        subsampling: S.
        teacher: frozen; not registered as a part of this module.
    """

    def __init__(self, quantizer: RandomProjectionQuantizer, subsampling: int, teacher: Teacher):
        super().__init__(quantizer, subsampling)
        self.teacher = teacher

    def forward(self, features: Tensor, frames: Tensor, num_frames: int, lengths: Tensor) -> Tensor:
        """As in ``AnchorLabeler``, with the lengths (B,) of the features: (N, 1) int64 in [0, V)."""
        return self.teacher.labels(features, lengths, frames, num_frames).unsqueeze(1)
