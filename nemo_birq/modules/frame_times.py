"""Times of frames and labels: the middle of each frame, in seconds.

* Mel frame i is centred at sample ``i * hop``: NeMo's short-time Fourier transform is centred (``torch.stft`` with
  ``center=True``, zeros on both sides). With ``exact_pad`` it is not, and the middle is ``i * hop + hop / 2``. (The window
  of even length is symmetric about half a sample earlier, which is left out here.)
* Encoder frame t sees the mel frames around its own middle. A convolution with kernel K, stride s and p zeros on
  the left centres its output t at input ``s * t + (K - 1) / 2 - p``. NeMo's ``striding`` and ``dw_striding`` (K = 3, p = 1)
  thus centre encoder frame t at mel frame ``S * t``; with causal subsampling (p = 2) at ``S * t - (S - 1)``; ``stacking``
  at ``S * t + (S - 1) / 2``. The layers of the encoder add context to a frame but do not move it.
* Anchor label t covers the stacked mel frames ``S * t`` to ``S * t + S - 1``, with the middle ``S * t + (S - 1) / 2``: 15 ms
  after that of the encoder frame with S = 4, 35 ms with S = 8. Encoder frame t of a causal subsampling sees no mel frame
  after ``S * t``: its label covers the frames ``S * t - (S - 1)`` to ``S * t``, which frame t - 1 has not seen.

S: subsampling factor of the encoder.
"""

from typing import NamedTuple

import numpy as np
from nemo.collections.asr.modules import ConformerEncoder
from nemo.collections.asr.parts.submodules.subsampling import ConvSubsampling
from nemo.core import ModelPT
from torch import nn


class FrameTimes(NamedTuple):
    """Equidistant frames."""

    first: float
    """Middle of frame 0, in seconds; may be negative."""
    step: float
    """Distance between two middles, in seconds."""

    def middles(self, count: int) -> np.ndarray:
        """Returns the middles of the first frames, in seconds: (count,) float64."""
        return self.first + self.step * np.arange(count)

    def edges(self, count: int) -> np.ndarray:
        """Returns the borders of the first frames, in seconds: (count + 1,) float64."""
        return self.first + self.step * (np.arange(count + 1) - 0.5)


def mel_times(model: ModelPT) -> FrameTimes:
    """Returns the times of the features that the model's preprocessor computes."""
    front_end = model.preprocessor.featurizer
    hop = front_end.hop_length / front_end.sample_rate
    return FrameTimes(hop / 2 if front_end.exact_pad else 0.0, hop)


def encoder_times(model: ModelPT) -> FrameTimes:
    """Returns the times of the encoder frames, which are those of the enhanced labels."""
    return _subsampled_times(model, first_encoder_frame(model.encoder))


def anchor_times(model: ModelPT) -> FrameTimes:
    """Returns the times of the frames of anchor labels."""
    return _subsampled_times(model, model.anchor_labeler.first_frame)


def _subsampled_times(model: ModelPT, first_frame: float) -> FrameTimes:
    first, hop = mel_times(model)
    return FrameTimes(first + first_frame * hop, hop * model.encoder.subsampling_factor)


def first_encoder_frame(encoder: ConformerEncoder) -> float:
    """Returns the middle of encoder frame 0, in feature frames."""
    pre_encode = encoder.pre_encode
    if isinstance(pre_encode, nn.Linear):
        return 0.0
    if not hasattr(pre_encode, "conv"):
        return (encoder.subsampling_factor - 1) / 2  # stacking
    offset, stride = 0.0, 1
    for module in pre_encode.conv.modules():
        if isinstance(module, nn.Conv2d):
            left = getattr(module, "_left_padding", None)  # causal convolutions pad their input themselves
            # The first dimension is time, the second frequency.
            offset += stride * ((module.kernel_size[0] - 1) / 2 - (module.padding[0] if left is None else left))
            stride *= module.stride[0]
    return offset


def leading_frames(encoder: ConformerEncoder) -> int:
    """Returns the number of zero frames before the first feature frame that align S feature frames with each encoder frame.
    It is S - 1 for a causal subsampling, whose frame t covers the feature frames ``S * t - (S - 1)`` to ``S * t``, else 0.
    """
    front = encoder.pre_encode
    causal = isinstance(front, ConvSubsampling) and front._left_padding > front._right_padding
    return encoder.subsampling_factor - 1 if causal else 0
