"""FLOP counts of a training step of BiRQ, computed from the lengths of its utterances.

Only products inside the true lengths are counted. Padding, recomputed activations and the comparison of the tasks' gradients
are not counted, because the step does not need them. Fits of labels, which happen in a few steps only, are left out too.

Shapes: B utterances, N masked frames, H codebooks, V codes, d code dimension, D encoder width.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.labels.teacher import TeacherLabeler
from nemo_birq.losses.bilevel import Losses
from nemo_birq.modules.encoder_flops import encoder_flops

if TYPE_CHECKING:
    from nemo_birq.model import BiRQModel


class StepWork(NamedTuple):
    """Operations and frames of a batch."""

    flops: float
    """FLOP of forward and backward pass."""
    frames: int
    """Number of feature frames inside the true lengths."""
    padded_frames: int
    """Number of feature frames with padding: B times the longest."""


def step_work(model: "BiRQModel", batch: SpeechBatch, losses: Losses) -> StepWork:
    """Counts the operations of a batch whose losses have been computed, without waiting for the device.

    Without ``batch.num_samples`` the lengths are only on the device, and every utterance counts as the longest one.
    """
    samples = [batch.signal.shape[1]] * len(batch.signal) if batch.num_samples is None else batch.num_samples
    frames = model.preprocessor.featurizer.get_seq_len(torch.tensor(samples))
    padded = len(frames) * int(model.preprocessor.featurizer.get_seq_len(torch.tensor(batch.signal.shape[1])))
    if batch.is_silent_stand_in:
        return StepWork(0.0, 0, padded)
    flops = step_flops(model, frames.numpy(), losses.terms)
    if batch.noisy is not None:
        flops += _filterbank(model.preprocessor.featurizer.fb, frames[batch.mixed].numpy())
    return StepWork(flops, int(frames.sum()), padded)


def step_flops(model: "BiRQModel", frames: np.ndarray, terms: dict) -> float:
    """Counts the FLOP of forward and backward pass.

    Args:
        model: model, for its sizes.
        frames: (B,) lengths in feature frames.
        terms: arguments of the bilevel loss (``Losses.terms``).
    """
    encoder, masked = model.encoder, len(terms["anchor_labels"])
    total = _filterbank(model.preprocessor.featurizer.fb, frames)
    total += encoder_flops(encoder, frames, len(encoder.layers)).training
    total += _anchor_flops(model, frames, masked)
    anchor, enhanced, targets = (terms[key] for key in ("anchor_weight", "enhanced_weight", "targets"))
    head = 2 * masked * terms["anchor_head"].decoder_layers[0].weight.numel()
    if targets is None:
        return total + (3 if anchor > 0 else 1) * head
    shared = terms["enhanced_head"] is terms["anchor_head"]
    weights = [anchor + enhanced] if shared else [anchor, enhanced]
    total += sum(3 if weight > 0 else 1 for weight in weights) * head
    differentiable = enhanced * model.enhanced_labeler.label_gradient > 0
    below = encoder_flops(encoder, frames, model.layer)
    total += below.training if differentiable else below.forward
    return total + _enhanced_flops(model, masked, differentiable, update=enhanced > 0)


def _filterbank(bank: Tensor, frames: np.ndarray) -> float:
    return 2.0 * bank.numel() * float(frames.sum())


def _anchor_flops(model: "BiRQModel", frames: np.ndarray, masked: int) -> float:
    labeler = model.anchor_labeler
    if isinstance(labeler, TeacherLabeler):
        below = encoder_flops(labeler.encoder, frames, labeler.file.layer).forward
        return below + 2.0 * masked * labeler.centroids.numel()
    return 2.0 * masked * (labeler.quantizer.projection.numel() + labeler.quantizer.codebook.numel())


def _enhanced_flops(model: "BiRQModel", masked: int, differentiable: bool, update: bool) -> float:
    quantizer, tracking = model.enhanced_labeler.quantizer, model.enhanced_labeler.tracking
    scores = 1 + int(differentiable) + int(tracking is not None and update)
    projections = 2 if differentiable else 1
    return 2.0 * masked * (projections * quantizer.projection.numel() + scores * quantizer.codebook.numel())
