"""The ``.nemo`` that a pretraining ends with."""

from pathlib import Path

from lightning.pytorch import Trainer
from nemo.utils import logging

from nemo_birq.checkpoint.artifacts import write_card_beside
from nemo_birq.checkpoint.nemo_archive import read_config, verify_nemo
from nemo_birq.model import BiRQModel


def complete_result(model: BiRQModel, trainer: Trainer) -> None:
    """Writes the ``.nemo`` and its card where a finished training has left none, or a damaged or older one.

    That is so when the process was killed after its last checkpoint: the resumed run has no step left, and Lightning calls
    no callback at its end.

    Raises:
        OSError: they cannot be written.
    """
    callback = trainer.checkpoint_callback
    if not getattr(callback, "save_nemo_on_train_end", False):
        return
    path = Path(callback._format_nemo_checkpoint_name())
    if model.saved == path:
        return
    if not _is_result(path, trainer.global_step) or not (path.parent / "README.md").is_file():
        model.save_to(str(path))  # the record of the training that the card is written from is made here
        if trainer.is_global_zero:
            write_card_beside(model, path)
    logging.info(f"Nothing was left to train after {trainer.global_step} steps: {path}")


def _is_result(path: Path, steps: int) -> bool:
    if not path.is_file():
        return False
    try:
        verify_nemo(path)
        return read_config(path).get("pretraining", {}).get("steps") == steps
    except ValueError as error:
        logging.warning(f"{error}. It is written again.")
        return False
