"""What Lightning calls while a BiRQ model trains and validates."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from nemo.utils import logging
from torch import Tensor

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.data.trainer_hooks import load_position, save_position
from nemo_birq.monitoring.alarm_rules import unreadable_data
from nemo_birq.monitoring.alarms import Alarms, UnreadableDataError
from nemo_birq.monitoring.finite_check import FiniteCheck, check_validation, check_weights
from nemo_birq.monitoring.gradient_health import gradient_products, split_loss
from nemo_birq.monitoring.label_churn import Churn, LabelProbe
from nemo_birq.monitoring.label_health import TASKS, LabelHealth
from nemo_birq.monitoring.training_log import TrainingLog, num_read, one_line
from nemo_birq.utils.distributed import sum_over_ranks
from nemo_birq.utils.precision import check_precision

STREAMS = ("train", "validation", "dropout")


class TrainingSteps:
    """Steps, their logging and their random numbers; a part of ``BiRQModel``."""

    trained_steps: int | None = None
    """Optimizer steps that a checkpoint was saved after, where the model was opened from one."""
    _step = -1  # the last one
    _micro_batch = 0  # of those that make a step under accumulate_grad_batches

    def set_up_watching(self, sample_rate: int) -> None:
        """What a run is watched with; ``self.birq`` must be there."""
        quantizer, watch = self.birq.quantizer, self.birq.watch
        self.training_log = TrainingLog(quantizer.num_codes, quantizer.num_books, sample_rate)
        self.finite_check = FiniteCheck()
        self.probe = LabelProbe(watch.probe_seconds, sample_rate)
        self.alarms = Alarms(self.birq)
        self._churn = {"train": Churn(), "val": Churn()}
        self._validation_health: dict[int, LabelHealth] = {}
        self._validation_counts: dict[int, Tensor] = {}
        """Utterances read and skipped."""

    def training_step(self, batch: Sequence, batch_idx: int) -> dict[str, Tensor]:
        batch = SpeechBatch(*batch)
        step = self.trainer.global_step
        # Not batch_idx: a resumed Lightning counts it differently.
        self._micro_batch = self._micro_batch + 1 if step == self._step else 0
        self._step = step
        observed = self.schedule.full.enhanced > 0 and self._is_log_step(step)
        generator = self._generator("train", step, self._micro_batch)
        torch.manual_seed(self._seed("dropout", step, self._micro_batch))  # resumed, that of an uninterrupted run
        losses = self.losses(batch, self.schedule.at(step), generator, observe_labels=observed, over_ranks=True)
        self.finite_check.remember(step, batch, losses.loss)
        self.training_log.health.update(**losses.health)
        self.training_log.count(batch)
        if self._is_gradient_step(step) and self._micro_batch == 0:
            parts = split_loss(self.bilevel_loss, losses.terms)
            self.training_log.gradients = gradient_products(parts, self.encoder.parameters())
        return {"loss": losses.loss}

    def on_fit_start(self) -> None:
        super().on_fit_start()
        check_precision(self.trainer.precision, self.device)

    def on_train_start(self) -> None:
        super().on_train_start()
        loaders = self.trainer.val_dataloaders
        first = next(iter(loaders), None) if isinstance(loaders, list) else loaders
        if self.schedule.full.enhanced > 0 and first is not None:
            self.probe.fill_from(first)  # nothing is validated before a resumed run goes on

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
        self.finite_check.look()
        weights = self.schedule.at(self._step)
        metrics = self.training_log.collect() | self._optimizer_metrics | {"enhanced_weight": weights.enhanced}
        metrics["loss"] = weights.anchor * metrics.get("anchor_loss", 0.0)
        metrics["loss"] += weights.enhanced * metrics.get("enhanced_loss", 0.0)
        metrics |= self._look_at_probe("train", "enhanced_churn")
        logging.info(one_line(self._step, metrics))
        self.alarms.check(self.trainer, self._step, metrics)
        named = {f"train_{name}": value for name, value in metrics.items()}
        named["learning_rate"] = named.pop("train_learning_rate")
        self.log_dict(named, on_step=True, logger=False)
        # Lightning would begin later than step 0, and repeat what is not measured at every logged step.
        for logger in self.loggers:
            logger.log_metrics(named | {"epoch": self.trainer.current_epoch}, step=self._step)
        self._check_skipped("train_ds", metrics["skipped_utterances"], metrics["skipped_share"])

    def validation_step(self, batch: Sequence, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        batch = SpeechBatch(*batch)
        generator = self._generator("validation", dataloader_idx, batch_idx)
        full = self.schedule.full
        loss, health, _ = self.losses(batch, full, generator, observe_labels=False, over_ranks=False)
        if dataloader_idx == 0:
            self.probe.fill(batch)
        if dataloader_idx not in self._validation_health:
            sizes = self.birq.quantizer.num_codes, self.birq.quantizer.num_books
            self._validation_health[dataloader_idx] = LabelHealth(*sizes).to(self.device)
            self._validation_counts[dataloader_idx] = torch.zeros(2, device=self.device)
        self._validation_counts[dataloader_idx] += torch.tensor([num_read(batch), batch.skipped], device=self.device)
        self._validation_health[dataloader_idx].update(**health)
        metrics = {"val_loss": loss}
        several = isinstance(self.trainer.val_dataloaders, list) and len(self.trainer.val_dataloaders) > 1
        (self.validation_step_outputs[dataloader_idx] if several else self.validation_step_outputs).append(metrics)
        return metrics

    def multi_validation_epoch_end(self, outputs: list, dataloader_idx: int = 0) -> dict[str, Any]:
        health = self._validation_health[dataloader_idx]
        read, skipped = sum_over_ranks(self._validation_counts[dataloader_idx])[0]
        self._check_skipped("validation_ds", float(skipped), float(skipped) / max(1.0, float(read + skipped)))
        self._validation_counts[dataloader_idx].zero_()
        metrics = health.compute()
        health.reset()
        full = self.schedule.full
        loss = full.anchor * metrics.get("anchor_loss", 0.0) + full.enhanced * metrics.get("enhanced_loss", 0.0)
        check_validation(loss, self.trainer.global_step)
        if dataloader_idx == 0:
            metrics |= {name: 1 - churn for name, churn in self._look_at_probe("val", "enhanced_previous_agreement").items()}
        log = {f"val_{name}": torch.tensor(value) for name, value in metrics.items()} | {"val_loss": torch.tensor(loss)}
        return {"val_loss": log["val_loss"], "log": log}

    def on_validation_start(self) -> None:
        super().on_validation_start()
        self._check_finite()

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self._check_finite()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._check_finite()
        super().on_save_checkpoint(checkpoint)
        checkpoint["birq_codes_used"] = {task: self._codes_used(task).cpu() for task in TASKS}
        if self._trainer is None:  # not in training
            return
        save_position(checkpoint, self._trainer, self._train_dl)
        if self._trainer.global_step == self._step:
            logging.warning(
                "This checkpoint lies between two batches of one optimizer step, and lacks the gradient of the first: "
                "to resume exactly, let trainer.val_check_interval be a multiple of trainer.accumulate_grad_batches"
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.trained_steps = checkpoint["global_step"]
        for task, used in checkpoint.get("birq_codes_used", {}).items():
            self._codes_used(task).copy_(used)
        load_position(checkpoint, self._train_dl)

    def configure_callbacks(self) -> list[Callback]:
        return [*super().configure_callbacks(), self.alarms]

    def _check_finite(self) -> None:
        self.finite_check.look()
        check_weights(self.parameters(), 0 if self._trainer is None else self._trainer.global_step)

    def _codes_used(self, task: str) -> Tensor:
        return getattr(self.training_log.health, f"{task}_used")

    def _look_at_probe(self, stage: str, name: str) -> dict[str, float]:
        """Share of the probe's frames whose enhanced label is not that of this stage's last look; empty at the first."""
        if self.schedule.full.enhanced == 0 or self.birq.watch.probe_seconds == 0:
            return {}
        with self.trainer.precision_plugin.forward_context():
            labels = self.probe.label(self)
        changed = self._churn[stage].look(labels, self.device)
        return {} if changed is None else {name: changed}

    def _check_skipped(self, node: str, skipped: float, share: float) -> None:
        finding = unreadable_data(self.cfg, node, skipped, share)
        if finding is not None:
            raise UnreadableDataError(finding)

    def _is_log_step(self, step: int) -> bool:
        return _is_due(step, self.trainer.log_every_n_steps)

    def _is_gradient_step(self, step: int) -> bool:
        return _is_due(step, self.birq.watch.gradient_interval)

    def _generator(self, stream: str, *position: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed(stream, *position))

    def _seed(self, stream: str, *position: int) -> int:
        """Random numbers depend on stream, rank, step and micro-batch alone: ranks differ, a resumed run repeats nothing."""
        entropy = (self.birq.seed, self.global_rank, STREAMS.index(stream), *position)
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _is_due(step: int, interval: int) -> bool:
    return interval > 0 and (step == 0 or (step + 1) % interval == 0)
