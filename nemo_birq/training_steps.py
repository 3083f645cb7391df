"""What Lightning calls while a BiRQ model trains and validates."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from nemo.utils import logging
from omegaconf import OmegaConf
from torch import Tensor

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.data.loader import MOST_SKIPPED
from nemo_birq.data.speech_loader import SpeechLoader
from nemo_birq.label_health import LabelHealth
from nemo_birq.training_log import one_line

STAGES = ("train", "validation")
FEW_SKIPPED = 10  # utterances that may be skipped whatever their share


class TrainingSteps:
    """Steps, their logging and their random numbers; a part of ``BiRQModel``."""

    _step = -1  # the last one
    _micro_batch = 0  # of those that make a step under accumulate_grad_batches

    def training_step(self, batch: Sequence, batch_idx: int) -> dict[str, Tensor]:
        batch = SpeechBatch(*batch)
        step = self.trainer.global_step
        # Not batch_idx: a resumed Lightning counts it differently.
        self._micro_batch = self._micro_batch + 1 if step == self._step else 0
        self._step = step
        observed = self.schedule.full.enhanced > 0 and self._is_log_step(step)
        generator = self._generator("train", step, self._micro_batch)
        torch.manual_seed(generator.initial_seed())  # dropout and dither: resumed, those of an uninterrupted run
        loss, health = self.losses(batch, self.schedule.at(step), generator, observe_labels=observed, over_ranks=True)
        if not torch.isfinite(loss):
            raise FloatingPointError(_non_finite_message(float(loss), step, batch))
        self.training_log.health.update(**health)
        self.training_log.count(batch)
        return {"loss": loss}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._is_log_step(self.trainer.global_step):
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self._optimizer_metrics = {
                "grad_norm": float(torch.nn.utils.get_total_norm(gradients)),
                "learning_rate": optimizer.param_groups[0]["lr"],
            }

    def on_train_batch_end(self, outputs: Any, batch: Sequence, batch_idx: int, unused: int = 0) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx, unused)
        accumulating = self.trainer.global_step == self._step
        if accumulating or not self._is_log_step(self._step):
            return
        weights = self.schedule.at(self._step)
        metrics = self.training_log.collect() | self._optimizer_metrics | {"enhanced_weight": weights.enhanced}
        metrics["loss"] = weights.anchor * metrics.get("anchor_loss", 0.0)
        metrics["loss"] += weights.enhanced * metrics.get("enhanced_loss", 0.0)
        logging.info(one_line(self._step, metrics))
        self._check_skipped(metrics)
        named = {f"train_{name}": value for name, value in metrics.items()}
        named["learning_rate"] = named.pop("train_learning_rate")
        self.log_dict(named, on_step=True)
        if self._step == 0:  # Lightning's own interval begins later; the first values are worth having
            for logger in self.loggers:
                logger.log_metrics(named, step=0)

    def validation_step(self, batch: Sequence, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        batch = SpeechBatch(*batch)
        generator = self._generator("validation", dataloader_idx, batch_idx)
        full = self.schedule.full
        loss, health = self.losses(batch, full, generator, observe_labels=False, over_ranks=False)
        if dataloader_idx not in self._validation_health:
            sizes = self.birq.quantizer.num_codes, self.birq.quantizer.num_books
            self._validation_health[dataloader_idx] = LabelHealth(*sizes).to(self.device)
        self._validation_health[dataloader_idx].update(**health)
        metrics = {"val_loss": loss}
        several = isinstance(self.trainer.val_dataloaders, list) and len(self.trainer.val_dataloaders) > 1
        (self.validation_step_outputs[dataloader_idx] if several else self.validation_step_outputs).append(metrics)
        return metrics

    def multi_validation_epoch_end(self, outputs: list, dataloader_idx: int = 0) -> dict[str, Any]:
        health = self._validation_health[dataloader_idx]
        metrics = health.compute()
        health.reset()
        full = self.schedule.full
        loss = full.anchor * metrics.get("anchor_loss", 0.0) + full.enhanced * metrics.get("enhanced_loss", 0.0)
        log = {f"val_{name}": torch.tensor(value) for name, value in metrics.items()} | {"val_loss": torch.tensor(loss)}
        return {"val_loss": log["val_loss"], "log": log}

    def _check_skipped(self, metrics: dict[str, float]) -> None:
        most = OmegaConf.select(self.cfg, "train_ds.max_skipped_share", default=MOST_SKIPPED)
        if metrics["skipped_utterances"] >= FEW_SKIPPED and metrics["skipped_share"] > most:
            raise RuntimeError(
                f"{metrics['skipped_utterances']:.0f} utterances, {metrics['skipped_share']:.1%} of those read, could not "
                f"be used, more than model.train_ds.max_skipped_share={most}. The log names each of them and what is wrong; "
                "scripts/verify_shards.py looks through all shards. The last checkpoint is untouched."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if isinstance(self._train_dl, SpeechLoader):
            checkpoint["birq_data_position"] = self._train_dl.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        # Lightning restores a loader by itself in the middle of an epoch, but not at its end where max_epochs counts.
        if isinstance(self._train_dl, SpeechLoader) and "birq_data_position" in checkpoint:
            self._train_dl.load_state_dict(checkpoint["birq_data_position"])

    def _is_log_step(self, step: int) -> bool:
        return step == 0 or (step + 1) % self.trainer.log_every_n_steps == 0

    def _generator(self, stage: str, *position: int) -> torch.Generator:
        """Masks and noise depend on stage, rank, step and micro-batch alone: ranks differ, a resumed run repeats nothing."""
        entropy = (self.birq.seed, self.global_rank, STAGES.index(stage), *position)
        seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
        return torch.Generator(self.device).manual_seed(seed)


def _non_finite_message(loss: float, step: int, batch: SpeechBatch) -> str:
    names = ", ".join(batch.ids or []) or "not known by name"
    return (
        f"the loss is {loss} at step {step}; the batch held: {names}. Training stopped before the weights were changed; the "
        "last checkpoint is untouched. Listen to these utterances and remove broken ones from the manifest; if they are "
        "fine, resume with a lower model.optim.lr, with trainer.gradient_clip_val=1.0, or with trainer.precision=bf16-mixed "
        "instead of 16-mixed."
    )
