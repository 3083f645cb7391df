"""Trainer and recognizer of a prepared configuration, and the final ``.nemo``."""

import itertools
import math
from pathlib import Path

import lightning.pytorch as pl
import torch
from nemo.collections.asr.models import ASRModel
from nemo.utils import logging
from nemo.utils.trainer_utils import resolve_trainer_cfg
from omegaconf import DictConfig, open_dict

from nemo_birq.checkpoint.lightning_checkpoint import AVERAGE, read_checkpoint
from nemo_birq.checkpoint.nemo_archive import complete_nemo, read_weights, verify_nemo
from nemo_birq.data.trainer_hooks import ValidateAtEnd
from nemo_birq.finetuning.data import batches_per_epoch, is_endless, longest_utterance
from nemo_birq.finetuning.freezing import FreezeEncoder
from nemo_birq.finetuning.initialization import initialize
from nemo_birq.losses.transducer import use_cpu_loss
from nemo_birq.modules.attention_memory import check_attention_fits
from nemo_birq.runs.progress_bar import show_whole_run


def build_trainer(cfg: DictConfig) -> tuple[pl.Trainer, int]:
    """Builds Lightning's trainer, with epochs as long as the training data; returns it with the number of optimizer steps.

    Raises:
        FileNotFoundError, ValueError: as ``data.batches_per_epoch``; also if the length of the training is not set.
    """
    trainer = pl.Trainer(**resolve_trainer_cfg(cfg.trainer))
    if trainer.world_size > 1 and cfg.trainer.strategy == "auto" and cfg.freeze_encoder and not cfg.from_scratch:
        # Plain DDP treats missing gradients of frozen parameters as an error.
        trainer = pl.Trainer(**resolve_trainer_cfg(cfg.trainer) | {"strategy": "ddp_find_unused_parameters_true"})
    trainer.callbacks.append(ValidateAtEnd())
    batches = batches_per_epoch(cfg.model.train_ds, trainer.world_size)
    trainer.limit_train_batches = _limit(trainer.limit_train_batches, batches, is_endless(cfg.model.train_ds))
    if isinstance(trainer.limit_train_batches, int):
        batches = trainer.limit_train_batches
    in_epochs = math.ceil(batches / trainer.accumulate_grad_batches) * (trainer.max_epochs or 0)
    limits = [limit for limit in (trainer.max_steps, in_epochs) if limit > 0]
    if not limits:
        raise ValueError("trainer.max_epochs and trainer.max_steps are not set: set one of them, which the schedule needs")
    left = min(limits) * trainer.accumulate_grad_batches % batches
    if min(limits) == trainer.max_steps and left and trainer.val_check_interval == 1.0:
        logging.warning(
            f"trainer.max_steps={trainer.max_steps} ends about {left} batches into an epoch of {batches}; these are not "
            "validated, and the .nemo has the weights of the best validation. A whole number for "
            "trainer.limit_train_batches, of which max_steps is a multiple, avoids that"
        )
    if min(limits) < trainer.max_steps:
        trainer.fit_loop.epoch_loop.max_steps = -1  # NeMo would set the length of the schedule to it
    show_whole_run(trainer, min(limits))
    return trainer, min(limits)  # Lightning stops at the first limit


def _limit(limit: int | float, batches: int, endless: bool) -> int | float:
    """Returns the number of batches of an epoch for Lightning; 1.0: until the loader ends.

    Lightning never validates if an epoch does not reach the number.
    """
    wanted = limit if isinstance(limit, int) else max(1, int(limit * batches))
    return wanted if endless or wanted < batches else 1.0


def build_recognizer(cfg: DictConfig, trainer: pl.Trainer, num_steps: int, pretrained: str) -> ASRModel:
    """Builds the NeMo class that ``model.target`` names, with the pretrained encoder unless ``from_scratch``.

    Raises:
        ValueError: an encoder tensor differs from the pretrained one, or an utterance is too long for the memory.
    """
    if cfg.model.optim.get("sched"):
        with open_dict(cfg.model.optim.sched):
            cfg.model.optim.sched.max_steps = num_steps  # NeMo only computes it for batches of a fixed size
    model = ASRModel.from_config_dict(cfg.model, trainer=trainer)
    if trainer.strategy.root_device.type == "cpu":
        use_cpu_loss(model)
    for node in ("train_ds", "validation_ds"):
        if longest := longest_utterance(cfg.model[node]):
            remedy = f"Skip longer utterances with model.{node}.max_duration={{seconds}}"
            training, device = node == "train_ds", trainer.strategy.root_device
            check_attention_fits(model, longest.name, longest.seconds, remedy, training, device)
    pl.seed_everything(cfg.seed + trainer.global_rank)  # NeMo's loaders have set the same seed on all ranks
    if cfg.from_scratch:
        logging.info(f"from_scratch: only the architecture is taken from {pretrained}")
        return model
    logging.info(f"{pretrained}: {initialize(model, pretrained, cfg.fresh_layers)}")
    frozen = cfg.freeze_encoder
    frozen = int(frozen * num_steps) if isinstance(frozen, float) else frozen
    if frozen:
        trainer.callbacks.append(FreezeEncoder(frozen))
    return model


def save_best(model: ASRModel, trainer: pl.Trainer, folder: Path, name: str) -> Path:
    """Writes ``<name>.nemo`` with the weights of the best validation, or their moving average if there is one.

    NeMo's ``save_best_model`` would write the weights instead of the average. An existing file, which the run wrote before
    it was resumed, is renamed to ``<name>-v1.nemo`` and so on, as in NeMo, unless it has the same weights.
    """
    callback = trainer.checkpoint_callback
    best, last = (getattr(callback, key, "") for key in ("best_model_path", "last_model_path"))
    if best or last:
        source = Path(best or last)
        average = source.with_name(f"{source.stem}{AVERAGE}")
        source = average if average.is_file() else source
        model.load_state_dict(read_checkpoint(source)["state_dict"])
        logging.info(f"The weights are those of {source.name} ({'the best validation' if best else 'the last checkpoint'})")
    path = folder / "checkpoints" / f"{name}.nemo"
    if trainer.is_global_zero and not _has_weights(path, model):
        with complete_nemo(path) as part:
            model.save_to(str(part))
            if path.exists():
                older = (path.with_name(f"{name}-v{number}.nemo") for number in itertools.count(1))
                path.rename(next(other for other in older if not other.exists()))
    return path


def _has_weights(path: Path, model: ASRModel) -> bool:
    """Returns True if an undamaged ``.nemo`` with the weights of the model exists."""
    if not path.exists():
        return False
    try:
        verify_nemo(path)
        saved = read_weights(path)
    except ValueError as error:
        logging.warning(f"{error}. It is written again.")
        return False
    own = model.state_dict()
    return saved.keys() == own.keys() and all(torch.equal(saved[name], own[name].cpu()) for name in own)
