"""Hooks between the data and Lightning: settings, validations, schedules, the position in a checkpoint."""

import math
from collections.abc import Sized
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from nemo.utils import logging
from nemo.utils.exp_manager import SkipResumeTrainingValidationLoop
from omegaconf import DictConfig, OmegaConf, open_dict

from nemo_birq.data.dataloader import SpeechLoader

KEY = "birq_data_position"
OWED = "birq_validation_owed"
"""Key of a checkpoint: the validation settings if a validation is due after its last batch, otherwise an empty list."""


def check_trainer(trainer: Trainer | None) -> None:
    """Refuses settings with which Lightning would replace the order of the data.

    Raises:
        ValueError: a setting is not supported; the message names the remedy.
    """
    if trainer is None:
        return
    if trainer.overfit_batches:
        raise ValueError("trainer.overfit_batches is not supported; use a manifest with few utterances")
    if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
        raise ValueError("set trainer.use_distributed_sampler=false: the plan of an epoch already divides it over the ranks")


class ValidateAtEnd(Callback):
    """Validates after the last batch of a training that ``trainer.max_epochs`` ends.

    If the interval of validations is in batches over all epochs, Lightning would omit this validation.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        is_last = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        if is_last and trainer.check_val_every_n_epoch is None:
            trainer.val_check_batch = trainer.fit_loop.epoch_loop.total_batch_idx + 1  # Lightning validates at multiples


def with_schedule_length(optim: DictConfig, trainer: Trainer, loader: Sized | None) -> DictConfig:
    """Returns the optimizer's configuration with ``sched.max_steps`` if ``trainer.max_epochs`` ends the training.

    NeMo computes it from a fixed number of utterances per batch, which planned batches do not have. If
    ``trainer.max_steps`` would end the training later, it is set to -1, because NeMo would make the schedule that long.
    """
    sched = optim.get("sched")
    if sched is None or sched.get("max_steps") or not trainer.max_epochs or trainer.max_epochs < 0 or loader is None:
        return optim
    limit = trainer.limit_train_batches
    batches = min(limit, len(loader)) if isinstance(limit, int) else int(limit * len(loader))
    steps = math.ceil(batches / trainer.accumulate_grad_batches) * trainer.max_epochs
    if 0 < trainer.max_steps <= steps:
        return optim
    trainer.fit_loop.epoch_loop.max_steps = -1
    optim = OmegaConf.create(OmegaConf.to_container(optim, resolve=True))
    with open_dict(optim):
        optim.sched.max_steps = steps
    return optim


class TrainingPosition(Callback):
    """Saves the position of a training in checkpoints, so that a resumed run reads and validates like an uninterrupted one.

    The position consists of the position in the data, Lightning's count of batches, and a flag that a validation is due.
    Without the last two, a resumed Lightning repeats the validation after which a checkpoint was saved, shifts the steps of
    validations if it was saved in ``on_train_batch_end``, and omits a validation that is due at the end of an epoch.
    """

    def __init__(self):
        self.validated = 0
        """Number of training batches of all epochs before the last validation."""
        self._owed: bool | None = None
        """True if a validation is due at the checkpoint from which the run resumes. None after the first batch, and if this
        is unknown: an earlier version saved the checkpoint, or the settings of validation have changed."""
        self._max_steps = self._limit_val_batches = None  # the trainer's, while this callback replaces them

    # --- saving ---------------------------------------------------------------------------------------------------

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.validated = trainer.fit_loop.total_batch_idx + 1

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        fit_loop = checkpoint["loops"]["fit_loop"]
        if trainer.fit_loop._should_accumulate():
            logging.warning(
                "This checkpoint lies between two batches of one optimizer step and lacks the gradient of the first. "
                "To resume exactly, set trainer.val_check_interval to a multiple of trainer.accumulate_grad_batches"
            )
        fit_loop["state_dict"].pop("combined_loader", None)  # Lightning's copy, which would be restored a second time
        if isinstance(pl_module._train_dl, SpeechLoader):
            checkpoint[KEY] = pl_module._train_dl.state_dict()
        owed = self._owes_validation(trainer, fit_loop)
        checkpoint[OWED] = _validation_settings(trainer) if owed else []
        _complete_batch(fit_loop, trainer, owed)

    def _owes_validation(self, trainer: Trainer, fit_loop: dict[str, Any]) -> bool:
        batch, epoch = fit_loop["epoch_loop.batch_progress"]["current"], fit_loop["epoch_progress"]["current"]
        after_a_batch = batch["ready"] == batch["processed"] and epoch["started"] > epoch["processed"]
        if not after_a_batch or self.validated == trainer.fit_loop.total_batch_idx + 1:
            return False
        stopping, trainer.should_stop = trainer.should_stop, False  # a run that stops would validate at any batch
        due = trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
        trainer.should_stop = stopping
        return due

    # --- resuming -------------------------------------------------------------------------------------------------

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        fit_loop = checkpoint["loops"]["fit_loop"]
        fit_loop["state_dict"].pop("combined_loader", None)
        validation = fit_loop["epoch_loop.val_loop.batch_progress"]["current"]
        validation.update(dict.fromkeys(validation, 0))  # otherwise a validation that is due would omit as many batches
        trainer.num_sanity_val_steps = 0  # Lightning does the same unless the checkpoint ends an epoch
        owed = checkpoint.get(OWED)
        self._owed = False if owed == [] else True if owed == _validation_settings(trainer) else None
        self.validated = 0 if self._owed else fit_loop["epoch_loop.batch_progress"]["total"]["processed"]
        load_position(checkpoint, pl_module._train_dl)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        skips = isinstance(trainer.fit_loop.epoch_loop, SkipResumeTrainingValidationLoop)  # disable_validation_on_resume
        if self._owed and trainer.max_steps > 0 and not skips:  # after the last step, Lightning would end at once
            self._max_steps = trainer.max_steps
            trainer.fit_loop.epoch_loop.max_steps += 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._go_on(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._owed is False:  # Lightning would validate before the first batch if its count of batches is due
            self._limit_val_batches, trainer.limit_val_batches = trainer.limit_val_batches, 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._go_on(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._go_on(trainer)  # an epoch may have no batch

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._go_on(trainer)

    def _go_on(self, trainer: Trainer) -> None:
        """Restores the trainer's own limits; from here on, a resumed run is like any other."""
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps = self._max_steps
        if self._limit_val_batches is not None:
            trainer.limit_val_batches = self._limit_val_batches
        self._owed = self._max_steps = self._limit_val_batches = None


def _validation_settings(trainer: Trainer) -> list[Any]:
    steps = trainer.val_check_interval, trainer.check_val_every_n_epoch
    return [*steps, trainer.limit_train_batches, trainer.limit_val_batches]


def _complete_batch(fit_loop: dict[str, Any], trainer: Trainer, validation_owed: bool) -> None:
    """Completes Lightning's counts, which it updates after the hooks in which checkpoints are saved.

    After the last batch, the epoch is completed, too. If a validation is due, a resumed Lightning does this after it.
    """
    batches, epochs = fit_loop["epoch_loop.batch_progress"], fit_loop["epoch_progress"]
    current, under_way = batches["current"], batches["current"]["ready"] > batches["current"]["processed"]
    for progress in (batches["total"], current):
        progress.update(dict.fromkeys(progress, progress["processed"]))
    if validation_owed:
        return
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = trainer.global_step  # the loggers' step
    is_last = batches["is_last_batch"] or current["processed"] >= trainer.num_training_batches
    if is_last and not under_way:
        for progress in (epochs["total"], epochs["current"]):
            progress.update(dict.fromkeys(progress, progress["started"]))
        current.update(dict.fromkeys(current, 0))
        batches["is_last_batch"] = False


def load_position(checkpoint: dict[str, Any], loader: Sized | None) -> None:
    """Sets the loader to its position in the checkpoint."""
    if not isinstance(loader, SpeechLoader):
        return
    if KEY in checkpoint:
        loader.load_state_dict(checkpoint[KEY])
    else:
        logging.warning("The checkpoint has no position in the data: the data are read from the start of the first epoch")
