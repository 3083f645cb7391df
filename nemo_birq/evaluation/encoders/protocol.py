"""Interface of a frozen encoder: the outputs of its layers, and the times of its frames."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nemo_birq.extraction.data import SpeechData
from nemo_birq.modules.frame_times import FrameTimes


class Outputs(NamedTuple):
    """Outputs of K layers for B utterances."""

    layers: list[Tensor]
    """K tensors (B, T', D) float; values of padded frames are arbitrary."""
    lengths: Tensor
    """(B,) int64 in encoder frames, at most T'."""


class LayeredEncoder(Protocol):
    """Frozen encoder in evaluation mode."""

    kind: str
    """Name of its class, or of the class of the model that it belongs to."""
    sample_rate: int
    """Sample rate of the input in Hz."""
    depth: int
    """Number of layers, L."""
    width: int
    """Width of the outputs, D."""
    num_parameters: int
    times: FrameTimes
    device: torch.device

    def encode(self, signal: Tensor, lengths: Tensor, layers: Sequence[int]) -> Outputs:
        """Computes the outputs of some layers.

        Args:
            signal: (B, samples) float32 on ``device``, zero-padded at the end.
            lengths: (B,) int64 in samples.
            layers: numbers in 1..L, ascending.
        """
        ...

    def check_longest(self, data: SpeechData, rows: Sequence[int]) -> None:
        """Checks that the longest of the utterances ``rows`` fits into the memory of the device.

        Raises:
            ValueError: the utterance does not fit; the message names it.
        """
        ...
