"""Where in time a label lies: the middle of each frame, in seconds.

* Mel frame i is centred at sample ``i * hop``: NeMo's short-time Fourier transform is centred (``torch.stft`` with
  ``center=True``, zeros on both sides). With ``exact_pad`` it is not, and the middle is ``i * hop + hop / 2``. (The window
  of even length is symmetric about half a sample earlier, which is left out here.)
* Encoder frame t sees the mel frames around its own middle. A convolution with kernel K, stride s and p zeros on
  the left centres its output t at input ``s * t + (K - 1) / 2 - p``. NeMo's ``striding`` and ``dw_striding`` (K = 3, p = 1)
  thus centre encoder frame t at mel frame ``S * t``; with causal subsampling (p = 2) at ``S * t - (S - 1)``; ``stacking``
  at ``S * t + (S - 1) / 2``. The layers of the encoder add context to a frame and leave it where it is.
* Anchor label t is of the stacked mel frames ``S * t`` to ``S * t + S - 1``, with the middle ``S * t + (S - 1) / 2``: 15 ms
  after that of the encoder frame with S = 4, 35 ms with S = 8.

S: subsampling factor of the encoder.
"""

from typing import NamedTuple

import numpy as np
from nemo.core import ModelPT
from torch import nn


class FrameTimes(NamedTuple):
    """Equidistant frames."""

    first: float
    """Middle of frame 0, in seconds; may be negative."""
    step: float
    """From one middle to the next, in seconds."""

    def middles(self, count: int) -> np.ndarray:
        """Middles of the first frames, in seconds: (count,) float64."""
        return self.first + self.step * np.arange(count)

    def edges(self, count: int) -> np.ndarray:
        """Where the first frames begin, and where the last ends: (count + 1,) float64."""
        return self.first + self.step * (np.arange(count + 1) - 0.5)


def mel_times(model: ModelPT) -> FrameTimes:
    """Of the features that the preprocessor computes."""
    front_end = model.preprocessor.featurizer
    hop = front_end.hop_length / front_end.sample_rate
    return FrameTimes(hop / 2 if front_end.exact_pad else 0.0, hop)


def encoder_times(model: ModelPT) -> FrameTimes:
    """Of encoder frames, and so of enhanced labels."""
    return _subsampled(model, _offset(model.encoder.pre_encode, model.encoder.subsampling_factor))


def anchor_times(model: ModelPT) -> FrameTimes:
    """Of anchor labels; those of a teacher lie where its encoder's frames do."""
    if model.teacher is not None:
        return _subsampled(model, _offset(model.teacher.encoder.pre_encode, model.encoder.subsampling_factor))
    return _subsampled(model, (model.encoder.subsampling_factor - 1) / 2)


def _subsampled(model: ModelPT, offset: float) -> FrameTimes:
    first, hop = mel_times(model)
    return FrameTimes(first + offset * hop, hop * model.encoder.subsampling_factor)


def _offset(pre_encode: nn.Module, subsampling: int) -> float:
    """Middle of encoder frame 0, in mel frames."""
    if isinstance(pre_encode, nn.Linear):
        return 0.0
    if not hasattr(pre_encode, "conv"):
        return (subsampling - 1) / 2  # stacking
    offset, stride = 0.0, 1
    for module in pre_encode.conv.modules():
        if isinstance(module, nn.Conv2d):
            left = getattr(module, "_left_padding", None)  # of causal convolutions, which pad by themselves
            # Of the two dimensions time is the first, frequency the second.
            offset += stride * ((module.kernel_size[0] - 1) / 2 - (module.padding[0] if left is None else left))
            stride *= module.stride[0]
    return offset
