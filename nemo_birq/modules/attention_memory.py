"""Estimate of the memory that attention needs for an utterance, which grows with the square of the length.

Shapes: T' encoder frames, H heads, L layers.
"""

import math

import torch
from nemo.collections.asr.modules import ConformerEncoder
from nemo.core import ModelPT

from nemo_birq.utils.memory import total_memory_bytes

MATRICES = 7
"""Number of (H, T', T') matrices that NeMo's attention with relative positions holds at once; measured on a CPU: 7.4."""
KEPT_FOR_BACKWARD = 1.5
"""Number of further matrices for each layer in training; measured with three layers: 12.3 in total."""
WITHOUT_POSITIONS = 3
"""Number of matrices of attention with absolute positions: scores, weights and their mask."""


def attention_bytes(encoder: ConformerEncoder, frames: float, training: bool) -> float:
    """Estimates the bytes for one utterance of T' = ``frames`` frames; 0 if the attention is local or fused."""
    kind = encoder.self_attention_model
    if kind not in ("rel_pos", "abs_pos") or (kind == "abs_pos" and getattr(encoder, "use_pytorch_sdpa", False)):
        return 0.0
    matrices = MATRICES if kind == "rel_pos" else WITHOUT_POSITIONS
    matrices += KEPT_FOR_BACKWARD * len(encoder.layers) if training else 0
    parameter = next(encoder.parameters())
    return matrices * encoder.layers[0].self_attn.h * frames**2 * parameter.element_size()


def check_attention_fits(
    model: ModelPT, name: str, seconds: float, remedy: str, training: bool = False, device: torch.device | None = None
) -> None:
    """Refuses an utterance whose attention needs more than the memory of the device, before the system kills the process.

    Args:
        model: model with preprocessor and encoder; only Conformer encoders are checked.
        name: name of the utterance, for the message.
        seconds: length of the utterance.
        remedy: advice for the message, in which ``{seconds}`` becomes the length that fits.
        training: include the backward pass.
        device: device that will run the model; None: its current device.

    Raises:
        ValueError: the utterance does not fit.
    """
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, ConformerEncoder):
        return
    step = float(model.cfg.preprocessor.get("window_stride", 0.01)) * encoder.subsampling_factor
    needed, room = (
        attention_bytes(encoder, seconds / step, training),
        _memory_of(device or next(encoder.parameters()).device),
    )
    if needed > room:
        fits = math.floor(seconds * math.sqrt(room / needed))
        raise ValueError(
            f"{name} lasts {seconds:.0f} s: its attention, over {seconds / step:,.0f} frames, needs about "
            f"{needed / 2**30:,.0f} GiB of memory, and the device has {room / 2**30:,.0f}. {remedy.format(seconds=fits)}"
        )


def _memory_of(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else total_memory_bytes()
