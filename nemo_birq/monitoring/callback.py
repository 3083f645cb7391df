"""Callback that measures, logs and checks the health of a run."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from nemo.utils import logging

from nemo_birq.config import BiRQConfig
from nemo_birq.data.batch import SpeechBatch
from nemo_birq.monitoring import checkpoint_state
from nemo_birq.monitoring.alarm_rules import unreadable_data
from nemo_birq.monitoring.alarms import Alarms, UnreadableDataError
from nemo_birq.monitoring.finite_check import FiniteCheck, check_validation, check_weights
from nemo_birq.monitoring.gradient_health import gradient_products, split_loss
from nemo_birq.monitoring.label_churn import Churn, LabelProbe
from nemo_birq.monitoring.label_health import LabelHealth
from nemo_birq.monitoring.step_flops import step_work
from nemo_birq.monitoring.training_log import TrainingLog, num_read, one_line
from nemo_birq.utils.device_speed import matrix_product_flops, training_dtype
from nemo_birq.utils.distributed import sum_over_ranks
from nemo_birq.utils.precision import check_precision

IN_BAR = {"anchor_loss": "anchor", "enhanced_loss": "enhanced", "audio_hours_per_hour": "h/h", "mfu": "mfu"}
"""Metrics in the progress bar, with their names there."""
CODES_USED = "birq_codes_used"
"""Key in a checkpoint for the codes that each task has used since the start."""


class HealthMonitor(Callback):
    """Measures, logs and checks a training of ``BiRQModel``. The model passes every batch to it.

    Args:
        birq: configuration of the model.
        sample_rate: sample rate in Hz.
    """

    def __init__(self, birq: BiRQConfig, sample_rate: int):
        self.birq = birq
        self.training_log = TrainingLog(birq.quantizer.num_codes, birq.quantizer.num_books, sample_rate)
        self.finite = FiniteCheck()
        self.probe = LabelProbe(birq.watch.probe_seconds, sample_rate)
        self.alarms = Alarms(birq)
        self.churn = {"train": Churn(), "val": Churn()}
        self.validation: dict[int, ValidationLog] = {}
        """Logs by number of the validation set."""
        self.optimizer_values: dict[str, float] = {}
        """Gradient norm and learning rate of the step that is logged next."""
        self.logged: dict[str, dict[str, float]] = {"training": {}, "validation": {}}
        """Last logged value of each metric, without prefix; for validation, of the set to which ``val_loss`` belongs."""
        self._step = -1
        self._started = False

    # --- called by the model --------------------------------------------------------------------------------------

    def observe(self, model: LightningModule, batch: SpeechBatch, losses: Any, first: bool) -> None:
        """Adds a training batch. Must be called before the backward pass, which frees the graph.

        Steps outside of a training, such as those of NeMo's OOMptimizer, are ignored: the logs are not on their device.

        Args:
            model: a ``BiRQModel``.
            batch: the batch.
            losses: its ``model.Losses``.
            first: True for the first micro-batch of an optimizer step.
        """
        if not self._started:
            return
        self._step = step = model.trainer.global_step
        self.finite.remember(step, batch, losses.loss)
        self.training_log.health.update(**losses.health)
        self.training_log.count(batch)
        self.training_log.count_work(step_work(model, batch, losses))
        if first and _is_due(step, self.birq.watch.gradient_interval):
            parts = split_loss(model.bilevel_loss, losses.terms)
            self.training_log.gradients = gradient_products(parts, model.encoder.parameters())

    def observe_validation(self, batch: SpeechBatch, health: dict[str, Any], number: int, device: torch.device) -> None:
        """Adds a batch of a validation set. The first batches of the first set fill the probe."""
        if number == 0:
            self.probe.fill(batch)
        self.validation_log(number, device).update(batch, health)

    def validation_log(self, number: int, device: torch.device) -> "ValidationLog":
        """Returns the log of a validation set, and creates it at the first call."""
        if number not in self.validation:
            self.validation[number] = ValidationLog(self.birq, device)
        return self.validation[number]

    def validation_metrics(self, model: LightningModule, number: int) -> dict[str, float]:
        """Returns the metrics of a validation set over all ranks, without the prefix ``val_``, including ``loss``.

        Raises:
            UnreadableDataError: too many utterances could not be read.
            NonFiniteError: the loss is NaN or infinite.
        """
        metrics, skipped, share = self.validation[number].compute()
        self._check_skipped(model, "validation_ds", skipped, share)
        full = model.schedule.full
        loss = full.anchor * metrics.get("anchor_loss", 0.0) + full.enhanced * metrics.get("enhanced_loss", 0.0)
        check_validation(loss, model.trainer.global_step)
        if number == 0:
            churn = self._churn_of_probe(model, "val")
            metrics |= {} if churn is None else {"enhanced_previous_agreement": 1 - churn}
        metrics["loss"] = loss
        main = getattr(model, "_val_dl_idx", 0)  # NeMo sets it if the configuration selects a set
        if number == main and not model.trainer.sanity_checking:
            self.logged["validation"] |= metrics
        return metrics

    def check_finite(self, model: LightningModule) -> None:
        """Checks the losses since the last call, and the weights. Every rank must call it.

        Raises:
            NonFiniteError: a loss or weight is NaN or infinite.
        """
        self.finite.look()
        check_weights(model.parameters(), 0 if model._trainer is None else model._trainer.global_step)

    def is_log_step(self, trainer: Trainer) -> bool:
        """Returns True if the current step is logged."""
        return _is_due(trainer.global_step, trainer.log_every_n_steps)

    # --- called by Lightning --------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.training_log.to(trainer.strategy.root_device)

    @property
    def state_key(self) -> str:
        return "Alarms"  # key of the state in checkpoints of earlier versions

    def state_dict(self) -> dict[str, Any]:
        return self.alarms.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.alarms.load_state_dict(state_dict)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_precision(trainer.precision, pl_module.device)
        # First in the list, because checkpoints that other callbacks save after a step must include its log.
        trainer.callbacks = [self, *(callback for callback in trainer.callbacks if callback is not self)]
        self.alarms.choose_file(trainer)
        if trainer.ckpt_path is not None:
            self.alarms.keep_earlier()
        self._started = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = True
        if pl_module.schedule.full.enhanced > 0:
            self._fill_probe(trainer, pl_module)
        self.alarms.start()
        dtype = training_dtype(str(trainer.precision))
        self.training_log.ceiling = matrix_product_flops(pl_module.device, dtype)
        self.training_log.start_clock()

    def _fill_probe(self, trainer: Trainer, model: LightningModule) -> None:
        """Fills the probe if no validation runs before training, as in a resumed run."""
        loaders = trainer.val_dataloaders
        if loaders is None and self.probe.resumed_lengths:  # Lightning does not set them up in an epoch without validation
            loaders = model._validation_dl
        first = next(iter(loaders), None) if isinstance(loaders, list) else loaders
        if first is not None:
            self.probe.fill_from(first)
        if self.probe.signals and self.probe.resumed_lengths not in (None, self.probe.lengths):  # other validation data
            self.churn = {stage: Churn() for stage in self.churn}

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self.is_log_step(trainer):
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self.optimizer_values = {
                "grad_norm": float(torch.nn.utils.get_total_norm(gradients)),
                "learning_rate": optimizer.param_groups[0]["lr"],
            }

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        accumulating = trainer.global_step == self._step
        if accumulating or not _is_due(self._step, trainer.log_every_n_steps):
            return
        self.finite.look()
        weights = pl_module.schedule.at(self._step)
        metrics = self.training_log.collect() | self.optimizer_values | {"enhanced_weight": weights.enhanced}
        metrics["loss"] = weights.anchor * metrics.get("anchor_loss", 0.0)
        metrics["loss"] += weights.enhanced * metrics.get("enhanced_loss", 0.0)
        tracking = pl_module.enhanced_labeler.tracking
        if tracking is not None and weights.enhanced > 0:
            metrics["enhanced_replaced"] = tracking.take_replaced()
        churn = self._churn_of_probe(pl_module, "train")
        metrics |= {} if churn is None else {"enhanced_churn": churn}
        self.logged["training"] |= metrics
        logging.info(one_line(self._step, metrics))
        self.alarms.check(trainer, self._step, metrics)
        named = {f"train_{name}": value for name, value in metrics.items()}
        named["learning_rate"] = named.pop("train_learning_rate")
        pl_module.log_dict(named, on_step=True, logger=False)
        # On the host, because the bar reads its numbers at every step and would wait for the device.
        shown = {name: torch.tensor(metrics[key]) for key, name in IN_BAR.items() if key in metrics}
        pl_module.log_dict(shown, on_step=True, logger=False, prog_bar=True)
        # Lightning would skip step 0, and repeat metrics that are not measured at every logged step.
        for logger in trainer.loggers:
            logger.log_metrics(named | {"epoch": trainer.current_epoch}, step=self._step)
        self._check_skipped(pl_module, "train_ds", metrics["skipped_utterances"], metrics["skipped_share"])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check_finite(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check_finite(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.alarms.finish(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._started and trainer.global_step > 0:  # a finished run was started again, with no steps left
            self.alarms.finish(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.alarms.interrupt(trainer, exception)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[CODES_USED] = {task: used.cpu().clone() for task, used in self.training_log.health.codes_used.items()}
        checkpoint[checkpoint_state.KEY] = checkpoint_state.collect(self)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        for task, used in checkpoint.get(CODES_USED, {}).items():
            self.training_log.health.codes_used[task].copy_(used)
        state = checkpoint.get(checkpoint_state.KEY)
        if state is None:  # from an earlier version
            return
        checkpoint_state.restore(self, state, trainer.strategy.root_device)
        if unreadable_data(pl_module.cfg, "train_ds", *checkpoint_state.skipped(state)) is not None:
            # The run was about to stop. If the data have been repaired, it must be able to continue.
            self.training_log.forget_skipped()

    def _churn_of_probe(self, model: LightningModule, stage: str) -> float | None:
        """Returns the share of probe frames whose enhanced label changed since the last call for this stage, if any."""
        if model.schedule.full.enhanced == 0 or self.birq.watch.probe_seconds == 0:
            return None
        with model.trainer.precision_plugin.forward_context():
            labels = self.probe.label(model)
        return self.churn[stage].look(labels, model.device)

    def _check_skipped(self, model: LightningModule, node: str, skipped: float, share: float) -> None:
        violation = unreadable_data(model.cfg, node, skipped, share)
        if violation is not None:
            raise UnreadableDataError(violation)


class ValidationLog:
    """Label health of a validation set, and the number of its utterances that could not be read."""

    def __init__(self, birq: BiRQConfig, device: torch.device):
        self.health = LabelHealth(birq.quantizer.num_codes, birq.quantizer.num_books).to(device)
        self.counts = torch.zeros(2, device=device)
        """Utterances read and skipped on this rank."""

    def update(self, batch: SpeechBatch, health: dict[str, Any]) -> None:
        """Adds a batch."""
        self.counts += torch.tensor([num_read(batch), batch.skipped], device=self.counts.device)
        self.health.update(**health)

    def compute(self) -> tuple[dict[str, float], float, float]:
        """Returns the metrics over all ranks, and the number and share of skipped utterances; then resets the log."""
        read, skipped = sum_over_ranks(self.counts)[0].tolist()
        metrics = self.health.compute()
        self.counts.zero_()
        self.health.reset()
        return metrics, skipped, skipped / max(1.0, read + skipped)


def _is_due(step: int, interval: int) -> bool:
    return interval > 0 and (step == 0 or (step + 1) % interval == 0)
