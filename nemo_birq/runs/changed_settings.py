"""Settings of a resumed run that differ from its checkpoint, which are listed, or refused if labels would change."""

from collections.abc import Collection, Iterator
from dataclasses import asdict
from textwrap import shorten
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from nemo.core import ModelPT
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf

from nemo_birq.checkpoint.lightning_checkpoint import peek_checkpoint
from nemo_birq.config import BiRQConfig

KEY = "birq_trainer_settings"
TRAINER_SETTINGS = (
    "max_steps", "max_epochs", "accumulate_grad_batches", "gradient_clip_val", "precision", "world_size",
    "limit_train_batches", "val_check_interval",
)  # fmt: skip
"""Attributes of the trainer that affect the result; ``world_size`` is ``devices`` times ``num_nodes``."""
NOT_COMPARED = (
    "card", "loss_list", "nemo_version", "pretraining", "target", "optim.sched.max_steps", "birq.quantizer.checksum",
    "birq.quantizer.tensors", "birq.relabelling.teacher", "birq.watch",
)  # fmt: skip
"""Keys of a model configuration that the code writes, or that do not affect the training."""
NOT_COMPARED_ANYWHERE = ("num_workers", "pin_memory")
LABELS = (
    "birq.labels", "birq.anchor", "preprocessor", "sample_rate", "labels", "decoder.vocabulary", "joint.vocabulary",
)  # fmt: skip
"""Keys that define the labels, or the features of a recognizer and the meaning of its outputs."""
LABEL_TENSORS = (
    "birq.quantizer", "birq.relabelling", "birq.anchor.projection", "birq.anchor.codes", "birq.labels.codebook",
    "birq.labels.code_dim", "birq.labels.projection",
)  # fmt: skip
"""Keys that define tensors of the checkpoint, which cannot be loaded with other values."""
WEIGHTS = ("encoder", "decoder", "joint", "birq.loss.head")
"""Keys that may change names and shapes of the weights."""


class TrainerSettings(Callback):
    """Saves the settings of the trainer in checkpoints, because the configuration of the model does not have them."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = trainer_settings(trainer)


class Change(NamedTuple):
    """A setting that differs from the checkpoint."""

    key: str
    then: Any
    """None: the key was not set."""
    now: Any

    def __str__(self) -> str:
        then, now = (shorten(str(value), 80, placeholder=" ...") for value in (self.then, self.now))
        return f"{self.key}: {then} -> {now}"

    def is_under(self, nodes: Collection[str]) -> bool:
        """Returns True if the key is one of these keys of a model configuration, or is inside one."""
        key = self.key.removeprefix("model.")
        return any(key == node or key.startswith(f"{node}.") for node in nodes)


def check_changed_settings(model: ModelPT, trainer: Trainer, allowed: Collection[str] = ()) -> None:
    """Compares the settings with the checkpoint from which training will resume, and logs the differences.

    The settings of the trainer are not compared with checkpoints of earlier versions, which lack them.

    Args:
        model: model before training.
        trainer: trainer whose ``ckpt_path`` is the checkpoint.
        allowed: keys that may change although they change the labels, such as ``model.birq.labels.logit_scale``.

    Raises:
        ValueError: a setting would change the labels and is not allowed, the checkpoint cannot be loaded with it,
            ``max_epochs`` is before the epoch of the checkpoint, or the checkpoint cannot be read.
    """
    checkpoint = _open(trainer.ckpt_path)
    cfg = checkpoint[ModelPT.CHECKPOINT_HYPER_PARAMS_KEY]["cfg"]
    changes = list(_changes(cfg, model.cfg))
    weights = WEIGHTS if _shapes(checkpoint["state_dict"]) != _shapes(model.state_dict()) else ()
    _refuse(changes, (*LABEL_TENSORS, *weights), allowed, trainer.ckpt_path)
    then, now = checkpoint.get(KEY, {}), trainer_settings(trainer)
    changes += [Change(f"trainer.{key}", then[key], now[key]) for key in now if key in then and then[key] != now[key]]
    if changes:
        listed = "".join(f"\n  {change}" for change in changes)
        logging.info(f"These settings differ from the checkpoint {trainer.ckpt_path}:{listed}")
    _check_length(checkpoint, trainer)


def trainer_settings(trainer: Trainer) -> dict[str, Any]:
    """Returns the settings of a trainer that affect the result, as plain values."""
    settings = {name: getattr(trainer, name) for name in TRAINER_SETTINGS}
    return settings | {"max_epochs": -1 if trainer.max_epochs is None else trainer.max_epochs}


def _open(path: str) -> dict[str, Any]:
    """Returns the content of a checkpoint without its tensors. The checksums are compared later, when Lightning loads it.

    Raises:
        ValueError: the file is damaged, or holds objects that could run code.
    """
    try:
        return peek_checkpoint(path)
    except ValueError as error:
        raise ValueError(
            f"training cannot resume from {path}: it cannot be read ({error}). Restore an undamaged copy, or remove it so "
            "that an older checkpoint is taken"
        ) from error


def _changes(then: DictConfig, now: DictConfig) -> Iterator[Change]:
    old, new = _flat(OmegaConf.to_container(then, resolve=True)), _flat(OmegaConf.to_container(now, resolve=True))
    if "birq" in now:  # fills in the defaults of keys that versions have added or removed
        defaults = OmegaConf.create({"birq": asdict(BiRQConfig())})
        own = {key: value for key, value in old.items() if not key.startswith("birq.") or _has(defaults, key)}
        old = _flat(OmegaConf.to_container(defaults)) | own
    for key in sorted({*old, *new}):
        change = Change(f"model.{key}", old.get(key), new.get(key))
        ignored = change.is_under(NOT_COMPARED) or key.rpartition(".")[2] in NOT_COMPARED_ANYWHERE
        if change.then != change.now and not ignored:
            yield change


def _has(config: DictConfig, key: str) -> bool:
    """Returns True if a configuration has a dotted key, even with the value None."""
    node, _, name = key.rpartition(".")
    found = OmegaConf.select(config, node)
    return isinstance(found, DictConfig) and name in found


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns settings by their dotted keys, without unset ones. Lists are values."""
    found = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            found[f"{prefix}{key}"] = value
    return found


def _shapes(weights: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def _refuse(changes: list[Change], fixed: Collection[str], allowed: Collection[str], path: str) -> None:
    """Raises ValueError for changes of ``fixed`` keys, and for changes of ``LABELS`` that are not allowed."""
    never = [change for change in changes if change.is_under(fixed)]
    named = [change for change in changes if change.is_under(LABELS) and change not in never and change.key not in allowed]
    problems = []
    if never:
        problems.append(f"the checkpoint cannot be loaded with other values of {_listed(never)}")
    if named:
        problems.append(f"the meaning of labels or features would change with {_listed(named)}")
    if not problems:
        return
    remedy = "restore the old values, or start a new experiment (another name=)"
    if named:
        remedy += f", or allow these changes: 'resume_with_changed=[{','.join(change.key for change in named)}]'"
    raise ValueError(f"training cannot resume from {path}: {'; '.join(problems)}. To resume, {remedy}.")


def _listed(changes: list[Change]) -> str:
    return ", ".join(map(str, changes))


def _check_length(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Logs a warning if no steps are left to train; raises ValueError if Lightning would refuse to start."""
    steps = checkpoint["global_step"]
    if 0 <= trainer.max_steps <= steps:
        logging.warning(
            f"Nothing is left to train: trainer.max_steps={trainer.max_steps}, and the checkpoint has {steps} steps. To "
            f"continue, set trainer.max_steps above {steps}"
        )
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
    if trainer.max_epochs is None or trainer.max_epochs < 0 or epochs["processed"] < trainer.max_epochs:
        return
    remedy = f"To continue, set trainer.max_epochs above {epochs['processed']}"
    text = f"trainer.max_epochs={trainer.max_epochs}, and the checkpoint has {epochs['processed']} epochs. {remedy}"
    if epochs["completed"] > trainer.max_epochs:
        raise ValueError(f"nothing is left to train: {text}")
    logging.warning(f"Nothing is left to train: {text}")
