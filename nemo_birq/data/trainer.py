"""What the trainer has to know of a planned epoch."""

import math
from collections.abc import Sized

from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf, open_dict


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


def with_schedule_length(optim: DictConfig, trainer: Trainer, loader: Sized | None) -> DictConfig:
    """The optimizer's configuration with ``sched.max_steps`` where only ``trainer.max_epochs`` says how long training is.

    NeMo computes it from a fixed number of utterances in a batch, which planned batches do not have.
    """
    sched = optim.get("sched")
    if sched is None or sched.get("max_steps") or trainer.max_steps > 0 or not trainer.max_epochs or trainer.max_epochs < 0:
        return optim
    limit = trainer.limit_train_batches
    batches = min(limit, len(loader)) if isinstance(limit, int) else int(limit * len(loader))
    optim = OmegaConf.create(OmegaConf.to_container(optim, resolve=True))
    with open_dict(optim):
        optim.sched.max_steps = math.ceil(batches / trainer.accumulate_grad_batches) * trainer.max_epochs
    return optim
