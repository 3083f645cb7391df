"""Name and folder of a run: values of ``name`` and ``exp_manager``."""

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from nemo.utils.exp_manager import ExpManagerConfig
from nemo.utils.get_rank import is_global_rank_zero
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field

from nemo_birq.config import refuse_unknown_keys
from nemo_birq.config_checks.trainer import TIME, TrainerSettings
from nemo_birq.utils.settings import Count, Flag, Name, Node, Real, Share, Size, Text, Whole, read, refuse, shown

Minutes = Annotated[Real, Field(ge=0, le=10**6)]
"""Minutes between two checkpoints; 0 is one at every step."""
MAX_NAME = 200
"""Largest number of bytes of a name: checkpoints append loss and step, and file systems allow 255."""
WANDB_WITHOUT_LOGIN = ("offline", "disabled", "dryrun")
"""Values of WANDB_MODE with which nothing is sent."""
LOGGERS = ("create_tensorboard_logger", "create_wandb_logger")


class CheckpointSettings(Node):
    """Arguments of NeMo's checkpoint callback."""

    monitor: Name = "val_loss"
    mode: Literal["min", "max"] = "min"
    save_top_k: Annotated[Whole, Field(ge=-1, le=10**6, description="-1 is all")] = 3
    save_last: Flag | None = True
    filename: Name | None = None
    dirpath: Name | None = None
    every_n_epochs: Count | None = 1
    every_n_train_steps: Count | None = None
    always_save_nemo: Flag = False
    save_best_model: Flag = False
    save_nemo_on_train_end: Flag = True


class AverageSettings(Node):
    """Settings of the moving average of the weights."""

    enable: Flag = False
    decay: Share = 0.999
    every_n_steps: Size = 1


class LoggerSettings(Node):
    """Arguments of the logger of Weights & Biases."""

    name: Name | None = None
    project: Name | None = None
    offline: Flag = False


class ExperimentSettings(Node):
    """Values of ``exp_manager``."""

    exp_dir: Name | None = None
    explicit_log_dir: Name | None = None
    name: Text | Whole | None = None
    create_tensorboard_logger: Flag = True
    create_wandb_logger: Flag = False
    create_mlflow_logger: Flag = False
    wandb_logger_kwargs: LoggerSettings | None = None
    create_checkpoint_callback: Flag = True
    checkpoint_callback_params: CheckpointSettings = CheckpointSettings()
    ema: AverageSettings | None = None
    resume_if_exists: Flag = False
    resume_ignore_no_checkpoint: Flag = False
    max_time_per_run: Text | None = None


def check_name(key: str, name: str | int) -> None:
    """Checks that a name is valid for a folder and for files in it.

    Raises:
        ValueError: the name is not valid.
    """
    text = str(name)
    if not text.strip() or text in (".", "..") or set(text) & set("/\\{}\0\n") or len(text.encode()) > MAX_NAME:
        refuse(key, name, f"a name of 1 to {MAX_NAME} bytes for a folder, without slash, brace or line break")


def check_experiment(node: dict[str, Any], trainer: TrainerSettings) -> None:
    """Checks ``exp_manager`` before it creates the folder of the run.

    Raises:
        ValueError: a key is unknown, a value is out of range, or values do not fit each other or the trainer.
    """
    refuse_unknown_keys(node, OmegaConf.to_container(_nemo_schema()), "exp_manager")
    settings = read(ExperimentSettings, node, "exp_manager")
    _check_types(settings)
    if settings.name is not None:
        check_name("exp_manager.name", settings.name)
    if settings.max_time_per_run is not None and not TIME.fullmatch(settings.max_time_per_run.strip()):
        refuse("exp_manager.max_time_per_run", settings.max_time_per_run, "DAYS:HOURS:MINUTES:SECONDS such as 00:12:00:00")
    if settings.create_mlflow_logger:  # NeMo 3.0.0 passes run_name twice: a TypeError after the model is built
        refuse("exp_manager.create_mlflow_logger", True, "false, because NeMo 3.0.0 cannot create this logger")
    if settings.create_wandb_logger:
        _check_wandb(settings.wandb_logger_kwargs or LoggerSettings())
    checkpoints = settings.checkpoint_callback_params
    if checkpoints.every_n_train_steps and checkpoints.every_n_epochs:
        where = "exp_manager.checkpoint_callback_params"
        allowed = f"null if {where}.every_n_train_steps={checkpoints.every_n_train_steps} is given"
        refuse(f"{where}.every_n_epochs", checkpoints.every_n_epochs, allowed)
    _check_fits_trainer(settings, trainer)
    _check_folder(settings)


@cache
def _nemo_schema() -> DictConfig:
    return OmegaConf.structured(ExpManagerConfig)


def _check_types(settings: ExperimentSettings) -> None:
    """Checks the types of values that only NeMo's schema describes."""
    others = dict(settings.model_extra or {})
    for key in ("checkpoint_callback_params", "ema"):
        inside = getattr(settings, key)
        if inside is not None and inside.model_extra:
            others[key] = inside.model_extra
    if not others:
        return
    try:
        OmegaConf.merge(_nemo_schema(), others)
    except OmegaConfBaseException as error:
        value = OmegaConf.select(OmegaConf.create(others), error.full_key or "")
        reason = str(error).splitlines()[0]
        raise ValueError(f"exp_manager.{error.full_key}={shown(value)} is not allowed: {reason}. Correct it") from error


def _check_wandb(settings: LoggerSettings) -> None:
    """Checks that the logger of Weights & Biases can begin: it asks for a login, in a prompt, after the model is built."""
    for key in ("name", "project"):
        if getattr(settings, key) is None:
            refuse(f"exp_manager.wandb_logger_kwargs.{key}", None, "a name if exp_manager.create_wandb_logger=true")
    if settings.offline or os.environ.get("WANDB_MODE") in WANDB_WITHOUT_LOGIN or not is_global_rank_zero():
        return
    key = "exp_manager.create_wandb_logger=true"
    try:
        import wandb
    except ImportError as error:
        raise ValueError(f"{key}: Weights & Biases is not installed. pip install wandb, or leave the key out") from error
    try:
        reason = None if wandb.login(prompt=False, verify=False) else "this machine is not logged in to Weights & Biases"
    except wandb.Error as error:
        reason = str(error).rstrip(".")
    if reason:
        raise ValueError(
            f"{key}: {reason}. Run `wandb login`, or set WANDB_API_KEY; WANDB_MODE=offline keeps the curves in a folder, "
            "without a login"
        )


def _check_fits_trainer(settings: ExperimentSettings, trainer: TrainerSettings) -> None:
    if trainer.fast_dev_run:
        return
    if trainer.logger is not False and any(getattr(settings, key) for key in LOGGERS):
        refuse("trainer.logger", trainer.logger, "false if exp_manager creates a logger")
    if trainer.enable_checkpointing is not False and settings.create_checkpoint_callback:
        refuse("trainer.enable_checkpointing", trainer.enable_checkpointing, "false if exp_manager saves the checkpoints")


def _check_folder(settings: ExperimentSettings) -> None:
    """Checks with a temporary file that the folder of the run can be created."""
    key = "explicit_log_dir" if settings.explicit_log_dir else "exp_dir"
    folder = Path(getattr(settings, key) or "nemo_experiments").expanduser().absolute()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        allowed = f"a writable folder ({there}: {error.strerror})"
        refuse(f"exp_manager.{key}", getattr(settings, key), allowed)
