"""Values of ``model.optim`` and ``model.optim.sched``."""

import inspect
from importlib.util import find_spec
from typing import Annotated, Any

from nemo.core.optim.lr_scheduler import AVAILABLE_SCHEDULERS
from nemo.core.optim.optimizers import AVAILABLE_OPTIMIZERS
from nemo.utils import logging
from pydantic import Field

from nemo_birq.config_checks.trainer import TrainerSettings
from nemo_birq.utils.settings import Count, Flag, Name, Node, Positive, Real, Share, Size, Whole, choose, read, refuse, shown

RATE = "a number above 0"
WITHOUT_RATE = ("adafactor", "rprop")
"""Optimizers that find a learning rate themselves if none is given."""
SCHEDULE_KEYS = {"name", "args", "monitor", "reduce_on_plateau", "max_steps", "iters_per_batch"}
"""Keys of a schedule that NeMo reads itself."""


class ScheduleSettings(Node):
    """Arguments of NeMo's learning rate schedules."""

    name: Name | None = None
    warmup_steps: Count | None = None
    warmup_ratio: Share | None = None
    hold_steps: Count | None = None
    hold_ratio: Share | None = None
    constant_steps: Count | None = None
    constant_ratio: Share | None = None
    max_steps: Annotated[Whole, Field(ge=-1, le=10**9)] | None = None
    min_lr: Annotated[Real, Field(ge=0)] = 0.0
    d_model: Size = 1
    power: Positive = 1.0
    cycle: Flag = False
    decay_rate: Positive = 0.5
    last_epoch: Annotated[Whole, Field(ge=-1)] = -1
    reduce_on_plateau: Flag = False


class OptimizerSettings(Node):
    """Arguments of the optimizers that NeMo knows by name."""

    name: Name | None = None
    lr: Annotated[Positive | None, Field(json_schema_extra={"allowed": RATE})] = None
    betas: Annotated[list[Annotated[Real, Field(ge=0, lt=1)]], Field(min_length=2, max_length=3)] | None = None
    eps: Annotated[Real, Field(ge=0, le=1)] | list[Real] = 1e-8
    weight_decay: Annotated[Real, Field(ge=0, le=1000)] = 0.0
    momentum: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    dampening: Real = 0.0
    amsgrad: Flag = False
    nesterov: Flag = False
    sched: ScheduleSettings | None = None


class ParameterGroup(Node):
    """Values of one parameter group."""

    lr: Annotated[Positive | None, Field(json_schema_extra={"allowed": RATE})] = None
    weight_decay: Annotated[Real, Field(ge=0, le=1000)] = 0.0


def check_optimizer(name: str | None) -> None:
    """Refuses an optimizer that is not installed.

    Raises:
        ValueError: the optimizer is not installed; the message says what to do.
    """
    if name == "fused_adam" and find_spec("apex") is None:
        raise ValueError(
            "model.optim.name=fused_adam needs NVIDIA Apex, which is not installed. Build it from its source (see "
            "docs/pretraining.md, 'Apex'; the package named apex on the package index is another project), or use "
            "model.optim.name=adamw: PyTorch's own."
        )


def check_optim(node: dict[str, Any], trainer: TrainerSettings) -> None:
    """Checks ``model.optim``.

    Args:
        node: plain dictionary of the node.
        trainer: settings with the length of the training.

    Raises:
        ValueError: a name is unknown, a value is out of range, or the optimizer or schedule does not have an argument.
    """
    settings = read(OptimizerSettings, node, "model.optim")
    check_optimizer(settings.name)
    if "_target_" not in node:
        choose("model.optim.name", settings.name or "adam", AVAILABLE_OPTIMIZERS)
        _check_arguments(
            node, AVAILABLE_OPTIMIZERS[settings.name or "adam"], {"name", "cls", "sched", "args"}, "model.optim"
        )
    if settings.lr is None and settings.name not in WITHOUT_RATE:
        refuse("model.optim.lr", None, RATE)
    number = 3 if settings.name == "adan" else 2
    if settings.betas is not None and len(settings.betas) != number:
        refuse("model.optim.betas", settings.betas, f"a list of {number}, each a number in [0, 1)")
    if settings.sched is not None:
        _check_schedule(node["sched"], settings.sched, settings.lr, trainer)


def _check_arguments(node: dict[str, Any], made: type, own: set[str], where: str) -> None:
    """Checks that the keys are arguments of the class that ``name`` selects, or of its base classes."""
    if "args" in node:
        return
    constructors = [kind.__init__ for kind in made.__mro__ if "__init__" in vars(kind)]
    known = {name for constructor in constructors for name in inspect.signature(constructor).parameters}
    for key in sorted(node.keys() - known - own):
        names = ", ".join(sorted(known - {"self", "args", "kwargs", "params", "optimizer", "defaults"}))
        raise ValueError(
            f"{where}.{key}={shown(node[key])} is not an argument of {where}.name={shown(node.get('name'))}: remove it with "
            f"~{where}.{key}, or use one of {names}"
        )


def _check_schedule(node: dict[str, Any], sched: ScheduleSettings, lr: float | None, trainer: TrainerSettings) -> None:
    where = "model.optim.sched"
    if "_target_" not in node.get("args", {}) and "_target_" not in node:
        if sched.name is None:
            refuse(
                f"{where}.name",
                None,
                f"one of {', '.join(sorted(AVAILABLE_SCHEDULERS))}; ~{where} keeps the learning rate constant",
            )
        choose(f"{where}.name", sched.name, AVAILABLE_SCHEDULERS)
        _check_arguments(node, AVAILABLE_SCHEDULERS[sched.name], SCHEDULE_KEYS, where)
    for part in ("warmup", "hold", "constant"):
        steps, ratio = getattr(sched, f"{part}_steps"), getattr(sched, f"{part}_ratio")
        if steps is not None and ratio is not None:
            refuse(f"{where}.{part}_ratio", ratio, f"null if {where}.{part}_steps={steps} is given")
    if lr is not None and sched.min_lr > lr:
        refuse(f"{where}.min_lr", node["min_lr"], f"at most model.optim.lr={lr:g}")
    shares = (sched.warmup_ratio or 0) + (sched.hold_ratio or 0) + (sched.constant_ratio or 0)
    if shares > 1 or (sched.hold_ratio and shares == 1):
        key, value = ("hold_ratio", sched.hold_ratio) if sched.hold_ratio else ("constant_ratio", sched.constant_ratio)
        refuse(
            f"{where}.{key}",
            value,
            f"below {1 - shares + value:g}, the share that {where}.warmup_ratio={sched.warmup_ratio} leaves",
        )
    if sched.max_steps == 0:
        refuse(f"{where}.max_steps", 0, "at least 1, or null for the length of the training")
    if trainer.max_steps == -1 and trainer.max_epochs == -1 and not sched.max_steps:
        refuse(f"{where}.max_steps", sched.max_steps, "a number of steps if only trainer.max_time ends the training")
    _check_lengths(sched, trainer.max_steps if trainer.max_steps > 0 else sched.max_steps or -1, trainer)


def _check_lengths(sched: ScheduleSettings, length: int, trainer: TrainerSettings) -> None:
    """Checks that the parts of a schedule are not longer than the schedule, if its length is already known.

    A longer warm-up is only a warning, so that a short trial run needs no other schedule.
    """
    where, total = "model.optim.sched", 0
    whole = "trainer.max_steps" if trainer.max_steps > 0 else f"{where}.max_steps"
    for part in ("warmup", "hold", "constant"):
        steps = getattr(sched, f"{part}_steps")
        total += steps or 0
        if part == "warmup" and 0 < length < total:
            logging.warning(
                f"{where}.warmup_steps={steps} is more than {whole}={length}: the learning rate rises until training ends"
            )
        elif length > 0 and steps and (total > length or (part == "hold" and total == length)):
            left = length - total + steps
            allowed = f"below {left}" if part == "hold" else f"at most {left}"
            refuse(f"{where}.{part}_steps", steps, f"{allowed}, the steps that {whole}={length} leaves")
