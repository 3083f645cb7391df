"""Freezing of the encoder while the new head is still untrained.

NeMo's ``freeze_updates`` keeps a frozen module in training mode, which changes the running statistics of its batch
normalization. Here, a frozen encoder stays in evaluation mode.
"""

from typing import Any

from lightning.pytorch import Callback, Trainer
from nemo.collections.asr.models import ASRModel
from nemo.utils import logging


def check_freeze_encoder(value: float | int) -> None:
    """Raises ValueError if ``freeze_encoder`` is neither a share of the training nor a number of steps."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or value < 0 or (isinstance(value, float) and value > 1):
        raise ValueError(f"freeze_encoder={value}: give a share of the training, 0.0 to 1.0, or a whole number of steps")


class FreezeEncoder(Callback):
    """Callback that freezes ``model.encoder`` for the first optimizer steps, also in a resumed run.

    Args:
        num_steps: number of optimizer steps with a frozen encoder.
    """

    def __init__(self, num_steps: int):
        self.num_steps = num_steps
        self.is_frozen = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: ASRModel, batch: Any, batch_idx: int) -> None:
        should_be = trainer.global_step < self.num_steps
        if should_be and not self.is_frozen:
            pl_module.encoder.freeze()
            logging.info(f"The encoder is frozen up to step {self.num_steps}")
        elif self.is_frozen and not should_be:
            pl_module.encoder.unfreeze()
            logging.info(f"Step {trainer.global_step}: the encoder is trained from now on")
        self.is_frozen = should_be

    def on_train_end(self, trainer: Trainer, pl_module: ASRModel) -> None:
        if self.is_frozen:  # the training was shorter
            pl_module.encoder.unfreeze()
            self.is_frozen = False
