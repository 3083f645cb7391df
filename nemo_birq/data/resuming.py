"""What a checkpoint says about the data, and about how far Lightning is with them."""

from typing import Any

from lightning.pytorch import Trainer
from nemo.utils import logging
from torch.utils.data import DataLoader

from nemo_birq.data.speech_loader import SpeechLoader

KEY = "birq_data_position"


def save_position(checkpoint: dict[str, Any], trainer: Trainer, loader: DataLoader | None) -> None:
    """Adds the position in the data to a checkpoint, and brings Lightning's own count of batches in step with it."""
    fit_loop = checkpoint["loops"]["fit_loop"]
    fit_loop["state_dict"].pop("combined_loader", None)  # Lightning's copy: there is one way to restore, this one
    if isinstance(loader, SpeechLoader):
        checkpoint[KEY] = loader.state_dict()
        _complete_batch(fit_loop, trainer.num_training_batches)


def _complete_batch(fit_loop: dict[str, Any], num_batches: int | float) -> None:
    """A checkpoint of every n steps is made before Lightning counts its batch, so that a resumed epoch is a batch longer."""
    batches, epochs = fit_loop["epoch_loop.batch_progress"], fit_loop["epoch_progress"]
    for progress in (batches["total"], batches["current"]):
        progress["completed"] = progress["processed"]
    if batches["current"]["processed"] >= num_batches and epochs["current"]["processed"] < epochs["current"]["ready"]:
        for progress in (epochs["total"], epochs["current"]):
            progress["processed"] = progress["completed"] = progress["ready"]
        for key in batches["current"]:
            batches["current"][key] = 0
        batches["is_last_batch"] = False


def load_position(checkpoint: dict[str, Any], loader: DataLoader | None) -> None:
    """Brings the loader to where it was when the checkpoint was made."""
    checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {}).pop("combined_loader", None)
    if not isinstance(loader, SpeechLoader):
        return
    if KEY in checkpoint:
        loader.load_state_dict(checkpoint[KEY])
    else:
        logging.warning("The checkpoint has no position in the data: they are read from the beginning of the first epoch")
