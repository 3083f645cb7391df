"""The final ``.nemo`` of a pretraining."""

from pathlib import Path

import torch
from lightning.pytorch import Trainer
from nemo.utils import logging
from nemo.utils.exp_manager import StatelessTimer

from nemo_birq.checkpoint.artifacts import write_card_beside
from nemo_birq.checkpoint.lightning_checkpoint import AVERAGE, read_checkpoint
from nemo_birq.checkpoint.nemo_archive import read_config, read_weights, verify_nemo
from nemo_birq.model import BiRQModel


def complete_result(model: BiRQModel, trainer: Trainer) -> None:
    """Writes the ``.nemo`` and its card if NeMo has written none, or not that of the last step.

    * If a process is killed after its last checkpoint, the resumed run has no step left and Lightning calls no callback.
    * With ``exp_manager.ema``, NeMo writes the weights instead of their moving average; this function writes the average.
    * A time limit (``exp_manager.max_time_per_run``) ends the process but not the training, so there is no result yet.

    Raises:
        OSError: the files cannot be written.
        ValueError: the checkpoint of the moving average is damaged.
    """
    callback = trainer.checkpoint_callback
    if not getattr(callback, "save_nemo_on_train_end", False):
        return
    last = Path(callback.last_model_path)
    if _out_of_time(trainer):
        logging.info(
            f"exp_manager.max_time_per_run has ended this run after step {trainer.global_step}. {last} is saved. Run the "
            "same command again to continue."
        )
        return
    path = Path(callback._format_nemo_checkpoint_name())
    average = last.with_name(f"{last.stem}{AVERAGE}")
    if average.is_file():
        model.load_state_dict(read_checkpoint(average)["state_dict"])
        logging.info(f"{path.name} holds the moving averages of the weights (exp_manager.ema)")
    elif model.saved == path:
        return
    if not _is_result(path, model, trainer.global_step) or not (path.parent / "README.md").is_file():
        is_described = model.saved == path
        model.save_to(str(path))  # this also records the training for the card
        if trainer.is_global_zero and not is_described:
            write_card_beside(model, path)
    logging.info(f"The training has ended after {trainer.global_step} steps: {path}")


def _out_of_time(trainer: Trainer) -> bool:
    timers = [callback for callback in trainer.callbacks if isinstance(callback, StatelessTimer)]
    return trainer.should_stop and any((timer.time_remaining() or 0) <= 0 for timer in timers)


def _is_result(path: Path, model: BiRQModel, steps: int) -> bool:
    """Returns True if an undamaged ``.nemo`` of that number of steps exists, with the weights of the model."""
    if not path.is_file():
        return False
    try:
        verify_nemo(path)
        saved = read_weights(path) if read_config(path).get("pretraining", {}).get("steps") == steps else {}
    except ValueError as error:
        logging.warning(f"{error}. It is written again.")
        return False
    own = model.state_dict()
    return saved.keys() == own.keys() and all(torch.equal(value.cpu(), saved[name]) for name, value in own.items())
