"""Checks of the restored content of a checkpoint, with errors that name it, and an end for runs that have already ended."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor

from nemo_birq.checkpoint.lightning_checkpoint import AVERAGE


class Restoring(Callback):
    """Callback that checks the restored state before the first step, and names the checkpoint in errors of restoring.

    Raises:
        ValueError: from the hooks, if an optimizer state does not fit its parameters, or restoring raises an error.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends a run that early stopping has already ended, because Lightning would train until the next validation."""
        for callback in trainer.callbacks:
            if isinstance(callback, EarlyStopping) and callback.wait_count >= callback.patience:
                trainer.should_stop = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.ckpt_path:
            return
        tensors = dict(pl_module.named_parameters())
        names = {parameter: name for name, parameter in tensors.items()}
        for number, optimizer in enumerate(trainer.optimizers):
            for parameter, state in optimizer.state.items():
                for name, value in state.items():
                    if not _fits(value, parameter):
                        raise ValueError(_message(trainer, f"{name} of optimizer {number} does not fit its parameter"))
                    if isinstance(value, Tensor):
                        tensors[f"{name} of {names.get(parameter, 'a parameter')} in optimizer {number}"] = value
        if broken := _not_finite(tensors, pl_module.device):
            raise ValueError(_message(trainer, f"{broken} holds NaN or infinity, so the checkpoint is damaged"))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        of_content = RuntimeError | KeyError | TypeError | AttributeError | IndexError
        is_of_content = isinstance(exception, of_content) and not isinstance(exception, torch.OutOfMemoryError)
        if trainer._checkpoint_connector._loaded_checkpoint and is_of_content:  # only errors before everything is restored
            first = (str(exception).splitlines() or ["no message"])[0]
            raise ValueError(_message(trainer, f"{type(exception).__name__}: {first}")) from exception


def _fits(value: Any, parameter: Tensor) -> bool:
    """Returns True if a value of an optimizer state is a number, or has the shape of its parameter, rows or columns."""
    if isinstance(value, Tensor):
        shape = parameter.shape
        return value.shape in ((), shape, shape[:-1], (*shape[:-2], *shape[-1:]))  # the last two belong to Adafactor
    return value is None or isinstance(value, int | float)


def _not_finite(tensors: dict[str, Tensor], device: torch.device) -> str | None:
    """Returns the name of the first tensor with NaN or infinity. Waits for the device once."""
    finite = [tensor.isfinite().all().to(device) for tensor in tensors.values()]
    return next((name for name, is_finite in zip(tensors, torch.stack(finite).tolist(), strict=True) if not is_finite), None)


def _message(trainer: Trainer, reason: str) -> str:
    path = Path(str(trainer.ckpt_path))
    average = path.with_name(f"{path.stem}{AVERAGE}")  # NeMo restores the moving averages and their optimizer from it
    beside = f", or {average.name} beside it," if average.is_file() else ""
    return (
        f"checkpoint {path}{beside} does not fit this run ({reason}): move it away to resume from the one before it, or "
        "start a new experiment (another exp_manager.name or exp_dir)"
    )
