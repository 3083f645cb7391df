"""Log lines at the start of a pretraining: versions and device, model, labels, length, and the folder of its files."""

from collections.abc import Iterator
from pathlib import Path

import nemo
import torch
from lightning.pytorch import Trainer
from nemo.utils import logging

from nemo_birq import __version__
from nemo_birq.config import BiRQConfig
from nemo_birq.model import BiRQModel

MOST_ON_CPU = 120.0
"""Seconds of audio in a batch above which a step on a CPU takes minutes."""


def introduce(model: BiRQModel, trainer: Trainer, folder: Path | None) -> None:
    """Logs a summary of the run before it starts.

    Args:
        model: model with its training data.
        trainer: trainer before the start.
        folder: folder of the run; None without exp_manager.
    """
    for line in lines(model, trainer, folder):
        logging.info(line)
    seconds = model.cfg.train_ds.get("batch_duration")
    if trainer.strategy.root_device.type == "cpu" and seconds and seconds > MOST_ON_CPU:
        logging.warning(
            f"model.train_ds.batch_duration={seconds:g} is meant for a GPU; a step takes minutes on a CPU. Set "
            "model.train_ds.batch_duration=30, or use --config-name=birq_conformer_tiny for a trial."
        )


def lines(model: BiRQModel, trainer: Trainer, folder: Path | None) -> Iterator[str]:
    """Yields the lines of ``introduce``."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({torch.get_num_threads()} thread(s))"
    yield (
        f"nemo_birq {__version__}, NeMo {nemo.__version__}, PyTorch {torch.__version__}; {trainer.world_size} x {name}, "
        f"precision {trainer.precision}"
    )
    encoder, heads = (sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.encoder, model.decoder_losses))
    size = f"{len(model.encoder.layers)} layers x {model.encoder.d_model}"
    yield f"Model: {type(model.encoder).__name__}, {size}; {encoder:.1f} M parameters, {heads:.1f} M in the heads"
    yield f"Labels: {'; '.join(_labels(model.birq, model.layer))}"
    yield f"Length: {', '.join(_length(model, trainer))}"
    if folder is not None:
        yield f"Files: {folder}; its nemo_log.txt has the whole configuration. Run the same command again to resume"


def _labels(birq: BiRQConfig, layer: int) -> Iterator[str]:
    quantizer, anchor, labels, loss = birq.quantizer, birq.anchor, birq.labels, birq.loss
    codebooks = f"{quantizer.num_books} x {quantizer.num_codes} codes"
    if birq.relabelling.teacher is not None:
        yield f"those of the teacher {birq.relabelling.teacher}, {quantizer.num_codes} clusters"
        return
    yield f"anchor, {codebooks}, {anchor.projection} projection and {anchor.codes} codes, w2 {loss.anchor_weight:g}"
    if loss.enhanced_weight:
        start = loss.start_step + loss.ramp_steps
        since = f" from step {start} on" if start else ""
        yield (
            f"enhanced, layer {layer}, {labels.projection} projection and {labels.codebook} codes, "
            f"w1 {loss.enhanced_weight:g}{since}"
        )
    else:
        yield "no enhanced labels (BEST-RQ)"


def _length(model: BiRQModel, trainer: Trainer) -> Iterator[str]:
    try:
        batches = len(model._train_dl) / trainer.accumulate_grad_batches
    except TypeError:  # streamed data have no length
        batches = None
    if trainer.max_steps > 0:
        yield f"{trainer.max_steps:,} steps" + (f" ({trainer.max_steps / batches:.3g} epochs)" if batches else "")
    if trainer.max_epochs and trainer.max_epochs > 0:
        yield f"{trainer.max_epochs} epochs" + (f" ({trainer.max_epochs * batches:,.0f} steps)" if batches else "")
