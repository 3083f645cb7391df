"""Passes through some layers of a NeMo Conformer encoder: the label pass, and the outputs of several layers at once.

The label pass runs the unmasked input through the first k layers only. NeMo's ``ConformerEncoder`` can only run all its
layers. ``encode_to_layer`` repeats the body of its ``forward_internal`` for the first k layers, with the encoder's own
modules; the stock encoder object is not changed. A test compares the result with NeMo's
``ConformerMultiLayerFeatureExtractor``.

Shapes: B utterances, F mel bins, T feature frames, T' encoder frames, D encoder width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from nemo.collections.asr.modules import ConformerEncoder
from nemo.collections.asr.parts.submodules.subsampling import ConvSubsampling, StackingSubsampling, calc_length
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase as BatchNormalization  # BatchNorm, SyncBatchNorm, InstanceNorm


@contextmanager
def label_mode(encoder: ConformerEncoder, dropout: bool, running: bool = False) -> Iterator[None]:
    """Prepares a training encoder for making labels within the block: no dropout, unless requested, and no new statistics.

    Batch normalization keeps the mode of the masked pass: in training it normalizes with the current batch, here the
    unmasked one, but only the masked pass updates the running statistics, which inference and fine-tuning use. With
    ``running`` it normalizes with the running statistics, as in inference.
    """
    if not encoder.training:
        yield
        return
    norms = [m for m in encoder.modules() if isinstance(m, BatchNormalization) and m.track_running_stats]
    trained = [m for m in encoder.modules() if m.training]
    quiet = [m for m in trained if (running if isinstance(m, BatchNormalization) else not dropout)]
    try:
        for module in norms:
            module.track_running_stats = False
        for module in quiet:
            module.training = False
        yield
    finally:
        for module in norms:
            module.track_running_stats = True
        for module in quiet:
            module.training = True


def encode_to_layer(
    encoder: ConformerEncoder, features: Tensor, lengths: Tensor, layer: int, dropout: bool = False, running: bool = False
) -> tuple[Tensor, Tensor]:
    """Computes the output of encoder layer k for the unmasked input, h^(k).

    Args:
        encoder: stock encoder without ``out_proj`` and ``reduction``.
        features: (B, F, T) normalized log-mel features.
        lengths: (B,) lengths in feature frames.
        layer: k in 1..L.
        dropout: keep dropout and stochastic depth on when the encoder is in training mode.
        running: batch normalization uses the running statistics even then.

    Returns:
        h^(k) of shape (B, T', D), and the lengths (B,) int64 in encoder frames.
    """
    if features.shape[2] > encoder.max_audio_length:
        encoder.set_max_audio_length(features.shape[2])  # the update in NeMo's forward is a collective call
    with label_mode(encoder, dropout, running):
        hidden = features.transpose(1, 2)
        if isinstance(encoder.pre_encode, nn.Linear):
            hidden = encoder.pre_encode(hidden)
        else:
            hidden, lengths = encoder.pre_encode(x=hidden, lengths=lengths)
        lengths = lengths.to(torch.int64)
        num_frames = hidden.shape[1]
        hidden, pos_emb = encoder.pos_enc(x=hidden)
        pad_mask, att_mask = encoder._create_masks(
            att_context_size=encoder.att_context_size,
            padding_length=lengths,
            max_audio_length=num_frames,
            offset=None,
            device=hidden.device,
        )
        for block, drop_probability in zip(encoder.layers[:layer], encoder.layer_drop_probs, strict=False):
            residual = hidden
            hidden = block(x=hidden, att_mask=att_mask, pos_emb=pos_emb, pad_mask=pad_mask)
            if encoder.training and drop_probability > 0:
                hidden = _stochastic_depth(hidden, residual, drop_probability)
    return hidden, lengths


def draw_context(encoder: ConformerEncoder, generator: torch.Generator | None) -> list[int]:
    """Draws one of the attention contexts of a training encoder, as NeMo does, but with the generator of the step.

    Args:
        encoder: encoder; in evaluation mode or with a single context, the result is None.
        generator: generator on the host; None: PyTorch's default one.
    """
    contexts = encoder.att_context_size_all
    if not encoder.training or len(contexts) == 1:
        return encoder.att_context_size
    return contexts[int(torch.multinomial(torch.tensor(encoder.att_context_probs), 1, generator=generator))]


def label_context(encoder: ConformerEncoder, kind: str, drawn: list[int] | None = None) -> list[int]:
    """Returns the attention context of the label pass.

    Args:
        encoder: encoder with one or several look-aheads.
        kind: value of ``config.LabelsConfig.context``.
        drawn: the context of the masked pass; None outside of training.
    """
    if kind == "full":
        return [-1] * len(encoder.att_context_size)
    return drawn if kind == "same" and drawn is not None else encoder.att_context_size


@contextmanager
def attending(encoder: ConformerEncoder, context: list[int] | None) -> Iterator[None]:
    """Sets the attention context of the encoder within the block, also in training; None: the one that it selects itself."""
    before = encoder.att_context_size, encoder.att_context_size_all
    if context is not None:
        encoder.att_context_size, encoder.att_context_size_all = context, [context]
    try:
        yield
    finally:
        encoder.att_context_size, encoder.att_context_size_all = before


def _stochastic_depth(hidden: Tensor, residual: Tensor, drop_probability: float) -> Tensor:
    """Applies NeMo's stochastic depth: drops the layer, or scales it up to keep the expectation."""
    if torch.rand(1) < drop_probability:
        return hidden * 0.0 + residual
    return (hidden - residual) / (1.0 - drop_probability) + residual


def parse_layers(text: str, depth: int) -> list[int]:
    """Parses layer numbers, ``4,7`` -> [4, 7], in ascending order without duplicates.

    Raises:
        ValueError: the text has no numbers, or the encoder does not have a layer.
    """
    try:
        layers = sorted({int(number) for number in text.split(",")})
    except ValueError as error:
        raise ValueError(f"layers {text!r}: give whole numbers, such as 4,7") from error
    wrong = [layer for layer in layers if not 1 <= layer <= depth]
    if wrong:
        raise ValueError(f"layers {wrong} do not exist: give layers from 1 to {depth}")
    return layers


def encode_to_layers(
    encoder: ConformerEncoder, features: Tensor, lengths: Tensor, layers: Sequence[int]
) -> tuple[dict[int, Tensor], Tensor]:
    """Computes the outputs of several layers; layers above the highest one are not run.

    Args:
        encoder: encoder in evaluation mode.
        features: (B, F, T) normalized log-mel features.
        lengths: (B,) lengths in feature frames.
        layers: layer numbers in 1..L.

    Returns:
        The outputs (B, T', D) by layer, and the lengths (B,) int64 in encoder frames.
    """
    outputs: dict[int, Tensor] = {}
    # Hooks collect the layers below k, which `encode_to_layer` does not return.
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
    """Refuses outputs that are not finite, from a diverged training or because they are too large for float16.

    Raises:
        ValueError: an output is NaN or infinite.
    """
    if not outputs.isfinite().all():
        text = f"{what}: the outputs hold NaN or infinity, as after a training that diverged"
        if outputs.dtype == torch.float16:
            text += ", or values beyond the range of float16, which float32 would hold"
        raise ValueError(text)


def encoder_lengths(encoder: ConformerEncoder, features: Tensor, lengths: Tensor) -> Tensor:
    """Computes the lengths in encoder frames, (B,) int64, without running the encoder; arguments as in
    ``encode_to_layer``."""
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
    raise ValueError(
        f"the subsampling {type(front).__name__} of the encoder is not supported: use an encoder with striding, "
        "dw_striding or stacking"
    )
