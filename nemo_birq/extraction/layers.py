"""Several layers of one pass through the encoder, and its lengths without a pass.

Shapes: B utterances, F mel bins, T feature frames, T' encoder frames, D encoder width, L layers.
"""

from collections.abc import Sequence

import torch
from nemo.collections.asr.modules import ConformerEncoder
from nemo.collections.asr.parts.submodules.subsampling import ConvSubsampling, StackingSubsampling, calc_length
from torch import Tensor, nn

from nemo_birq.layer_pass import encode_to_layer


def parse_layers(text: str, depth: int) -> list[int]:
    """``4,7`` -> [4, 7], in rising order, each once.

    Raises:
        ValueError: no numbers, or a layer that the encoder does not have.
    """
    try:
        layers = sorted({int(number) for number in text.split(",")})
    except ValueError as error:
        raise ValueError(f"layers {text!r}: give whole numbers, such as 4,7") from error
    wrong = [layer for layer in layers if not 1 <= layer <= depth]
    if wrong:
        raise ValueError(f"layers {wrong}: this encoder has the layers 1 to {depth}")
    return layers


def encode_to_layers(
    encoder: ConformerEncoder, features: Tensor, lengths: Tensor, layers: Sequence[int]
) -> tuple[dict[int, Tensor], Tensor]:
    """Outputs of some layers; those above the highest are not run.

    Args:
        encoder: in evaluation mode.
        features: (B, F, T) normalized log-mel features.
        lengths: (B,) lengths in feature frames.
        layers: of 1..L.

    Returns:
        (B, T', D) by layer, and the lengths (B,) int64 in encoder frames.
    """
    outputs: dict[int, Tensor] = {}
    # Hooks also see the layers below k, which `encode_to_layer` does not give.
    hooks = [
        encoder.layers[layer - 1].register_forward_hook(lambda _, __, output, layer=layer: outputs.update({layer: output}))
        for layer in layers
    ]
    try:
        _, encoded_len = encode_to_layer(encoder, features, lengths, max(layers))
    finally:
        for hook in hooks:
            hook.remove()
    return outputs, encoded_len


def check_finite(outputs: Tensor, what: str) -> None:
    """Refuses what a diverged training gives, and values too large for float16.

    Raises:
        ValueError: NaN or infinity.
    """
    if not outputs.isfinite().all():
        text = f"{what}: the outputs hold NaN or infinity, as after a training that diverged"
        if outputs.dtype == torch.float16:
            text += ", or values beyond the range of float16, which float32 would hold"
        raise ValueError(text)


def encoder_lengths(encoder: ConformerEncoder, features: Tensor, lengths: Tensor) -> Tensor:
    """Lengths in encoder frames, (B,) int64, as the encoder computes them, without running it. Arguments as above."""
    front = encoder.pre_encode
    if isinstance(front, nn.Linear):
        return lengths.to(torch.int64)
    if isinstance(front, StackingSubsampling):
        padding = -features.shape[2] % front.subsampling_factor
        return torch.div(lengths + padding, front.subsampling_factor, rounding_mode="floor").to(torch.int64)
    if isinstance(front, ConvSubsampling):
        found = calc_length(
            lengths, front._left_padding + front._right_padding, front._kernel_size, front._stride, front._ceil_mode,
            front._sampling_num,
        )  # fmt: skip
        return found.to(torch.int64)
    raise ValueError(f"the encoder's subsampling is a {type(front).__name__}, whose lengths are not known")
