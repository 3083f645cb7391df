"""Effects of a lever besides its time: on the gradient, on the memory for the backward pass, and on compiled graphs."""

from dataclasses import replace
from typing import Any

import torch
from step_counts import _saved
from step_variants import Setting, Variant
from torch import Tensor, nn

from nemo_birq.data.batch import SpeechBatch

QUIET = (
    "model.encoder.dropout=0", "model.encoder.dropout_pre_encoder=0", "model.encoder.dropout_emb=0",
    "model.encoder.dropout_att=0", "model.preprocessor.dither=0",
)  # fmt: skip
"""Overrides without random numbers, with which equivalent steps give the same gradient."""
LENGTHS = (1.0, 0.55, 0.8, 0.65)  # of the utterances in turn, because kernels differ at padded attention rows
BUCKETS = 8


def uneven(batch: SpeechBatch) -> SpeechBatch:
    """Returns the batch with shorter utterances in it."""
    lengths = [round(length * LENGTHS[number % len(LENGTHS)]) for number, length in enumerate(batch.num_samples)]
    signal = batch.signal.clone()
    for row, length in zip(signal, lengths, strict=True):
        row[length:] = 0
    return batch._replace(
        signal=signal, signal_length=torch.tensor(lengths, device=signal.device), num_samples=lengths
    )  # fmt: skip


def quiet(setting: Setting) -> Setting:
    """Returns the setting without dropout and dither."""
    return replace(setting, overrides=(*setting.overrides, *QUIET))


def gradient_of(variant: Variant, setting: Setting) -> dict[str, Any]:
    """Computes the gradient of a ``quiet`` variant with its initial weights.

    Returns:
        ``loss``, ``gradient`` of all parameters (flat, float32, on the CPU), and ``kept``, the bytes kept for backward.
    """
    batch, half = uneven(setting.batch()), setting.precision == "bf16-mixed"
    with torch.autocast(variant.device, torch.bfloat16, enabled=half), _saved(variant.model) as saved:
        loss = variant.loss(batch, 1)
    kept = sum(saved.values())
    loss.backward()
    return {"loss": float(loss), "gradient": _flat(variant.model), "kept": kept}


def _flat(model: nn.Module) -> Tensor:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    return torch.cat([gradient.flatten().float().cpu() for gradient in gradients if gradient is not None])


def compare_gradients(found: dict, exact: dict) -> dict[str, Any]:
    """Compares a step with the eager one in float32: ``cosine``, ``norm`` and ``loss`` as ratios, ``kept`` in bytes."""
    left, right = found["gradient"].double(), exact["gradient"].double()
    return {
        "cosine": float(nn.functional.cosine_similarity(left, right, dim=0)),
        "norm": float(left.norm() / right.norm()),
        "loss": found["loss"] / exact["loss"],
        "kept": found["kept"],
    }


def count_graphs(variant: Variant, setting: Setting) -> list[int]:
    """Counts the graphs that are compiled until each of the buckets' batches has been seen, from short to long utterances.

    An epoch has at least as many shapes as buckets. If the number rises to the end, each shape is compiled.
    """
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found = []
    for number in range(1, BUCKETS + 1):
        seconds = setting.utterance_seconds * (0.3 + 0.7 * number / BUCKETS)
        count = max(2, round(setting.batch_seconds / seconds))
        batch = uneven(replace(setting, utterance_seconds=seconds, batch_seconds=count * seconds).batch())
        variant.step(batch)
        found.append(int(torch._dynamo.utils.counters["stats"]["unique_graphs"]))
    return found
