"""Hooks between the data and Lightning: settings, the run's folder, validations, schedules, the position in a checkpoint."""

import math
from collections.abc import Sized
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from nemo.utils import logging
from nemo.utils.exp_manager import exp_manager
from omegaconf import DictConfig, OmegaConf, open_dict
from torch.utils.data import DataLoader

from nemo_birq.data.dataloader import SpeechLoader

KEY = "birq_data_position"


def check_trainer(trainer: Trainer | None) -> None:
    """Refuses settings for which Lightning would replace the order of the data.

    Raises:
        ValueError: with the remedy.
    """
    if trainer is None:
        return
    if trainer.overfit_batches:
        raise ValueError("trainer.overfit_batches is not supported; take a manifest with few utterances")
    if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
        raise ValueError("set trainer.use_distributed_sampler=false: the plan of an epoch divides it over the ranks already")


def start_experiment(trainer: Trainer, cfg: DictConfig | None) -> Path | None:
    """Makes the folder of a run, with NeMo's ``exp_manager``, which see.

    It compares ``trainer.max_epochs`` with ``trainer.check_val_every_n_epoch``, which is null where validations are
    counted in batches through all epochs; meanwhile 1 stands in its place.
    """
    every = trainer.check_val_every_n_epoch
    trainer.check_val_every_n_epoch = every or 1
    try:
        return exp_manager(trainer, cfg)
    finally:
        trainer.check_val_every_n_epoch = every


class ValidateAtEnd(Callback):
    """Validates after the last batch of a training that ``trainer.max_epochs`` ends.

    Where validations are counted in batches through all epochs, Lightning would leave out those after the last one.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        is_last = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        if is_last and trainer.check_val_every_n_epoch is None:
            trainer.val_check_batch = trainer.fit_loop.epoch_loop.total_batch_idx + 1  # of which Lightning wants a multiple


def with_schedule_length(optim: DictConfig, trainer: Trainer, loader: Sized | None) -> DictConfig:
    """Returns the optimizer's configuration with ``sched.max_steps`` where ``trainer.max_epochs`` ends the training.

    NeMo computes it from a fixed number of utterances in a batch, which planned batches do not have. Where
    ``trainer.max_steps`` would end the training later, it is lifted: NeMo would make the schedule as long.
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


def save_position(
    checkpoint: dict[str, Any], trainer: Trainer, loader: DataLoader | None, between_batches: bool = False
) -> None:
    """Adds the position in the data to a checkpoint, and brings Lightning's own count of batches in step with it.

    Args:
        checkpoint: of Lightning, before it is written.
        trainer: that trains.
        loader: of the training data.
        between_batches: the checkpoint lies between two batches of one optimizer step.
    """
    if between_batches:
        logging.warning(
            "This checkpoint lies between two batches of one optimizer step, and lacks the gradient of the first: "
            "to resume exactly, let trainer.val_check_interval be a multiple of trainer.accumulate_grad_batches"
        )
    fit_loop = checkpoint["loops"]["fit_loop"]
    fit_loop["state_dict"].pop("combined_loader", None)  # Lightning's copy: there is one way to restore, this one
    if isinstance(loader, SpeechLoader):
        checkpoint[KEY] = loader.state_dict()
        _complete_batch(fit_loop, trainer.num_training_batches)


def _complete_batch(fit_loop: dict[str, Any], num_batches: int | float) -> None:
    """A checkpoint of every n steps is made before Lightning counts its batch, so that a resumed epoch is a batch longer."""
    batches, epochs = fit_loop["epoch_loop.batch_progress"], fit_loop["epoch_progress"]
    for progress in (batches["total"], batches["current"]):
        progress["completed"] = progress["processed"]
    if batches["current"]["processed"] >= num_batches and epochs["current"]["processed"] < epochs["current"]["ready"]:
        for progress in (epochs["total"], epochs["current"]):
            progress["processed"] = progress["completed"] = progress["ready"]
        for key in batches["current"]:
            batches["current"][key] = 0
        batches["is_last_batch"] = False


def load_position(checkpoint: dict[str, Any], loader: DataLoader | None) -> None:
    """Brings the loader to where it was when the checkpoint was made."""
    checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {}).pop("combined_loader", None)
    if not isinstance(loader, SpeechLoader):
        return
    if KEY in checkpoint:
        loader.load_state_dict(checkpoint[KEY])
    else:
        logging.warning("The checkpoint has no position in the data: they are read from the beginning of the first epoch")
