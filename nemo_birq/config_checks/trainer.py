"""Values of ``trainer``: the arguments of Lightning's Trainer."""

import inspect
import re
from typing import Annotated, Any, Literal, get_args

from lightning.fabric.plugins.precision.precision import _PRECISION_INPUT
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry
from nemo.utils.trainer_utils import _FLASH_PRECISION_ALIASES
from pydantic import Field

from nemo_birq.config import refuse_unknown_keys
from nemo_birq.utils.settings import Count, Flag, Name, Node, Real, Size, Text, Whole, choose, read, refuse

Limit = Annotated[Whole, Field(ge=1, le=10**9)] | Annotated[Real, Field(gt=0, le=1)] | None
LimitOrNone = Annotated[Whole, Field(ge=0, le=10**9)] | Annotated[Real, Field(ge=0, le=1)] | None
Length = Annotated[Whole, Field(ge=-1, le=10**9, description="-1 is no limit")]
DEVICES = re.compile(r"auto|-1|[1-9]\d*|\d+(,\d+)+,?|\d+,")
TIME = re.compile(r"\d+:\d\d:\d\d:\d\d")


class TrainerSettings(Node):
    """Arguments of Lightning's Trainer; those without a field are not checked here."""

    devices: Annotated[Whole, Field(ge=-1)] | Name | Annotated[list[Count], Field(min_length=1)] = "auto"
    num_nodes: Size = 1
    accelerator: Name = "auto"
    strategy: Name | dict[str, Any] = "auto"
    precision: Whole | Text | None = None
    max_epochs: Length | None = None
    min_epochs: Count | None = None
    max_steps: Length = -1
    min_steps: Count | None = None
    max_time: Text | dict[str, Real] | None = None
    limit_train_batches: Limit = None
    limit_val_batches: LimitOrNone = None
    limit_test_batches: LimitOrNone = None
    limit_predict_batches: LimitOrNone = None
    overfit_batches: LimitOrNone = 0
    val_check_interval: Limit = None
    check_val_every_n_epoch: Size | None = 1
    accumulate_grad_batches: Size = 1
    gradient_clip_val: Annotated[Real, Field(ge=0)] | None = None
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    sync_batchnorm: Flag = False
    log_every_n_steps: Count | None = None
    num_sanity_val_steps: Annotated[Whole, Field(ge=-1, le=10**9)] | None = None
    enable_progress_bar: Flag | None = None
    enable_model_summary: Flag | None = None
    enable_checkpointing: Flag | None = None
    inference_mode: Flag = True
    logger: Flag | None = None
    benchmark: Flag | None = None
    deterministic: Flag | Literal["warn"] | None = None
    detect_anomaly: Flag = False
    barebones: Flag = False
    fast_dev_run: Flag | Count = False
    use_distributed_sampler: Flag = True
    reload_dataloaders_every_n_epochs: Count = 0
    profiler: Literal["simple", "advanced", "pytorch", "xla"] | None = None


def check_trainer_settings(node: dict[str, Any]) -> TrainerSettings:
    """Checks ``trainer`` before Lightning's Trainer is built.

    Raises:
        ValueError: a key or name is unknown, a value is out of range, or nothing ends the training.
    """
    refuse_unknown_keys(node, list(inspect.signature(Trainer.__init__).parameters)[1:], "trainer")
    settings = read(TrainerSettings, node, "trainer")
    _check_names(settings)
    for key in ("max_epochs", "max_steps"):
        if getattr(settings, key) == 0:
            refuse(f"trainer.{key}", 0, "at least 1, or -1 for no limit")
    if settings.max_steps == -1 and settings.max_epochs == -1 and settings.max_time is None:
        refuse("trainer.max_steps", -1, "at least 1 if trainer.max_epochs=-1 and trainer.max_time is not given")
    if isinstance(settings.max_time, str) and not TIME.fullmatch(settings.max_time.strip()):
        refuse("trainer.max_time", settings.max_time, "DAYS:HOURS:MINUTES:SECONDS such as 00:12:00:00")
    if settings.overfit_batches:
        refuse("trainer.overfit_batches", settings.overfit_batches, "0: use a manifest with few utterances instead")
    if settings.check_val_every_n_epoch is None and isinstance(settings.val_check_interval, float):
        allowed = "a whole number of batches if trainer.check_val_every_n_epoch is null"
        refuse("trainer.val_check_interval", settings.val_check_interval, allowed)
    return settings


def _check_names(settings: TrainerSettings) -> None:
    if settings.devices == 0 or (isinstance(settings.devices, str) and not DEVICES.fullmatch(settings.devices)):
        refuse("trainer.devices", settings.devices, "auto, a number of devices of at least 1, or a list of devices")
    choose("trainer.accelerator", settings.accelerator, {"auto", "gpu", *AcceleratorRegistry.available_accelerators()})
    kinds = {"auto": ("cpu",), "gpu": ("cuda", "mps")}.get(settings.accelerator, (settings.accelerator,))
    if not any(AcceleratorRegistry[kind]["accelerator"].is_available() for kind in kinds):
        allowed = "one that this machine has: auto uses a GPU if there is one, cpu uses none"
        refuse("trainer.accelerator", settings.accelerator, allowed)
    if isinstance(settings.strategy, str):
        choose("trainer.strategy", settings.strategy.lower(), {"auto", *StrategyRegistry.available_strategies()})
    known = {choice for kind in get_args(_PRECISION_INPUT) for choice in get_args(kind)} | {None, *_FLASH_PRECISION_ALIASES}
    if settings.precision not in known | {"fp16-true"}:
        names = sorted({str(choice) for choice in known if choice is not None})
        refuse("trainer.precision", settings.precision, f"one of {', '.join(names)}")
