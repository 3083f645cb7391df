"""FLOP counts for a pass through the first layers of a NeMo Conformer encoder, in closed form.

The counts include matrix products and convolutions, with a multiplication and an addition as two operations, but not
elementwise operations. They depend only on lengths, so counting a step costs nothing and does not wait for the device.

Shapes: B utterances, T feature frames, T' encoder frames, D encoder width.
"""

from typing import NamedTuple

import numpy as np
from nemo.collections.asr.modules import ConformerEncoder
from nemo.collections.asr.parts.submodules.multi_head_attention import (
    MultiHeadAttention,
    RelPositionMultiHeadAttention,
    RelPositionMultiHeadAttentionLongformer,
)
from nemo.collections.asr.parts.submodules.subsampling import StackingSubsampling
from torch import nn


class Flops(NamedTuple):
    """FLOP of the products of a forward pass, grouped by the cost of their backward pass."""

    inner: float
    """FLOP of products whose two factors need a gradient: backward costs twice as much as forward."""
    outer: float
    """FLOP of products with an input without gradient, such as the features: backward costs as much as forward."""

    @property
    def forward(self) -> float:
        return self.inner + self.outer

    @property
    def training(self) -> float:
        """FLOP of forward and backward pass."""
        return 3 * self.inner + 2 * self.outer


def encoder_flops(encoder: ConformerEncoder, frames: np.ndarray, layers: int) -> Flops:
    """Counts the FLOP of a pass of utterances through subsampling and the first layers.
    Global tokens of local attention are not counted.

    Args:
        encoder: encoder without ``out_proj`` and ``reduction``.
        frames: (B,) lengths in feature frames. To include padding, pass B times T.
        layers: number of layers, k in 0..L.
    """
    front, encoded = _subsampling(encoder.pre_encode, frames.astype(np.float64))
    inner, outer = np.sum(front[1:]), front[0]
    longest = float(encoded.max(initial=0))
    for layer in encoder.layers[:layers]:
        attention = layer.self_attn
        positions = attention.linear_pos if isinstance(attention, RelPositionMultiHeadAttention) else None
        products = [m for m in layer.modules() if isinstance(m, (nn.Linear, nn.Conv1d)) and m is not positions]
        inner += sum(2 * module.weight.numel() for module in products) * encoded.sum()
        inner += _attention(attention, encoded).sum()
        if positions is not None and longest:  # one table for all utterances
            outer += 2 * positions.weight.numel() * _num_positions(attention, longest)
    return Flops(float(inner), float(outer))


def _subsampling(front: nn.Module, frames: np.ndarray) -> tuple[list[float], np.ndarray]:
    """Returns the FLOP of each product in order, and the lengths (B,) in encoder frames."""
    if isinstance(front, nn.Linear):
        return [2 * front.weight.numel() * frames.sum()], frames
    if isinstance(front, StackingSubsampling):
        frames = np.ceil(frames / front.subsampling_factor)
        return [2 * front.proj_out.weight.numel() * frames.sum()], frames
    # NeMo 3.0 cannot run its other kinds, vggnet and one-dimensional convolutions.
    found, bands = [], float(front._feat_in)
    for module in front.conv:
        if isinstance(module, nn.Conv2d):
            # NeMo's causal convolutions pad their input themselves, by the same amount on both axes.
            added = sum(getattr(module, side, module.padding[0]) for side in ("_left_padding", "_right_padding"))
            kernel, stride = module.kernel_size[0], module.stride[0]
            frames = np.where(frames > 0, (frames + added - kernel) // stride + 1, 0)
            bands = (bands + added - kernel) // stride + 1
            found.append(2 * module.weight.numel() * frames.sum() * bands)
    return [*found, 2 * front.out.weight.numel() * frames.sum()], frames


def _num_positions(attention: RelPositionMultiHeadAttention, longest: float) -> float:
    """Returns the number of relative positions."""
    if isinstance(attention, RelPositionMultiHeadAttentionLongformer):
        return sum(attention.att_context_size) + 1
    return 2 * longest - 1


def _attention(attention: MultiHeadAttention, encoded: np.ndarray) -> np.ndarray:
    """Returns the FLOP of the products between frames: (B,) lengths T' -> (B,)."""
    width = attention.h * attention.d_k
    if isinstance(attention, RelPositionMultiHeadAttentionLongformer):
        window = max(attention.att_context_size)
        padded = np.ceil(encoded / (2 * window)) * 2 * window
        overlapping = np.maximum(padded / window - 1, 0)
        keys = 2 * overlapping * (2 * window) ** 2 * width
        return keys + 2 * padded * (_num_positions(attention, 0) + 3 * window) * width
    positions = 2 * encoded - 1 if isinstance(attention, RelPositionMultiHeadAttention) else 0
    return 2 * encoded * (2 * encoded + positions) * width
