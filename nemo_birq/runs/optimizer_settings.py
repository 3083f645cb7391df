"""Restores the configured settings of optimizer and schedule in a resumed run.

Lightning loads the settings of optimizer and schedule with their state, so a lower learning rate in the command that resumes
would have no effect.
"""

import copy
import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from nemo.collections.common.callbacks import EMA
from nemo.core import ModelPT
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf
from torch.optim.lr_scheduler import ReduceLROnPlateau

PROGRESS = (
    "last_epoch", "_step_count", "_last_lr", "_get_lr_called_within_step", "_is_initial",
    "best", "num_bad_epochs", "cooldown_counter",
)  # fmt: skip
"""Attributes with the position of a schedule; the last three belong to ``ReduceLROnPlateau``."""


class OptimizerSettings(Callback):
    """Callback that gives the restored optimizer and schedule the settings of this run, and logs the differences.

    Moments, step counters and the position in the schedule come from the checkpoint. The learning rate becomes that of the
    schedule of this run at that step. Nothing changes if no setting differs. With another kind of optimizer, or other
    parameter groups, the moments cannot be loaded and start from zero.
    """

    def __init__(self):
        self._groups: list[dict[str, Any]] = []
        """Configured settings of each parameter group."""
        self._schedules: list[dict[str, Any]] = []
        """Configured settings of each schedule, and its state at step 0."""
        self._is_other_kind = False
        """True if the checkpoint was made with another kind of optimizer or schedule."""

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        cfg = checkpoint.get(ModelPT.CHECKPOINT_HYPER_PARAMS_KEY, {}).get("cfg", pl_module.cfg)
        then, now = _describe_optimizer(cfg), _describe_optimizer(pl_module.cfg)
        if then != now:
            checkpoint["optimizer_states"] = []
            logging.warning(
                f"The moments of the optimizer start from zero: the checkpoint has {then}, but this run has {now}"
            )
        schedules = {OmegaConf.select(each, "optim.sched.name") for each in (cfg, pl_module.cfg)}
        self._is_other_kind = then != now or len(schedules) > 1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stores the configured settings. Lightning restores those of the checkpoint after this hook."""
        for group in _groups(trainer):
            group.setdefault("initial_lr", group["lr"])  # every schedule except ReduceLROnPlateau sets it
        settings = [{key: value for key, value in group.items() if key != "params"} for group in _groups(trainer)]
        self._groups = copy.deepcopy(settings)
        self._schedules = [copy.deepcopy(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:
            return
        before = [group["lr"] for group in _groups(trainer)]
        changes = self._restore_groups(trainer) | self._restore_schedules(trainer) | _restore_average(trainer)
        if not changes and not self._is_other_kind:
            return
        _set_rates(trainer)
        after = [group["lr"] for group in _groups(trainer)]
        # The schedule computes these two from other settings in the list.
        named = {key: values for key, values in changes.items() if not key.endswith(("base_lrs", "decay_steps"))}
        text = ", ".join(f"{key} {then} -> {now}" for key, (then, now) in named.items())
        logging.info(
            f"Resumed at step {trainer.global_step} with the optimizer settings of this run: {text or 'another kind'}. "
            f"The learning rate is now {_numbers(after)} instead of {_numbers(before)}"
        )

    def _restore_groups(self, trainer: Trainer) -> dict[str, tuple[Any, Any]]:
        changes = {}
        for number, (group, configured) in enumerate(zip(_groups(trainer), self._groups, strict=True)):
            where = f" of parameter group {number}" if len(self._groups) > 1 else ""
            group.setdefault("initial_lr", group["lr"])  # a checkpoint of an earlier version, without a schedule
            for key, values in _replace(group, configured, kept=("lr",)).items():
                changes[("lr" if key == "initial_lr" else key) + where] = values
                if key == "initial_lr" and values[0]:
                    group["lr"] *= values[1] / values[0]
        return changes

    def _restore_schedules(self, trainer: Trainer) -> dict[str, tuple[Any, Any]]:
        changes = {}
        for config, configured in zip(trainer.lr_scheduler_configs, self._schedules, strict=True):
            schedule = config.scheduler
            if schedule.last_epoch == 0 and config.interval == "step":  # the checkpoint has no schedule
                schedule.last_epoch = trainer.global_step
            found = _replace(vars(schedule), configured, kept=PROGRESS)
            changes |= {f"schedule's {key}": values for key, values in found.items()}
        return changes


def _groups(trainer: Trainer) -> list[dict[str, Any]]:
    return [group for optimizer in trainer.optimizers for group in optimizer.param_groups]


def _describe_optimizer(cfg: DictConfig) -> str:
    """Describes the kind of optimizer and its parameter groups in order, which must be equal for the moments to fit."""
    name, groups = OmegaConf.select(cfg, "optim.name"), OmegaConf.select(cfg, "optim_param_groups") or {}
    return f"{name} with parameter groups {', '.join(groups)}" if groups else str(name)


def _replace(settings: dict[str, Any], configured: dict[str, Any], kept: tuple[str, ...]) -> dict[str, tuple[Any, Any]]:
    """Replaces restored values by configured ones; returns those that differ, as (restored, configured)."""
    configured = {key: value for key, value in configured.items() if key not in kept}
    changes = {
        key: (settings[key], value)
        for key, value in configured.items()
        if key in settings and _plain(settings[key]) != _plain(value)
    }
    settings.update(copy.deepcopy(configured))
    return changes


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _restore_average(trainer: Trainer) -> dict[str, tuple[Any, Any]]:
    """Restores the configured settings of NeMo's moving average of the weights."""
    changes = {}
    for callback in trainer.callbacks:
        if isinstance(callback, EMA):
            settings = {"decay": callback.decay, "every_n_steps": callback.every_n_steps}
            for optimizer in trainer.optimizers:
                found = _replace(vars(optimizer), settings, kept=())
                changes |= {f"moving average's {key}": values for key, values in found.items()}
    return changes


def _set_rates(trainer: Trainer) -> None:
    """Sets the learning rates of the schedules at their positions; without a schedule, the configured ones."""
    if not trainer.lr_scheduler_configs:
        for group in _groups(trainer):
            group["lr"] = group["initial_lr"]
    for config in trainer.lr_scheduler_configs:
        schedule = config.scheduler
        if isinstance(schedule, ReduceLROnPlateau):
            continue  # its rate is the configured one with the restored reduction
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the method warns if it is called outside of step()
            rates = getattr(schedule, "_get_closed_form_lr", schedule.get_lr)()
        for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        schedule._last_lr = list(rates)


def _numbers(rates: list[float]) -> str:
    return ", ".join(f"{rate:.3g}" for rate in rates)
