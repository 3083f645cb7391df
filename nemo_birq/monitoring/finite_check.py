"""Checks that stop a run whose numbers are not finite, without waiting for the device at every step.

Losses stay on the device until they are checked: at logged steps, before validation, and before anything is saved. Training
may therefore continue with NaN for some steps. Everything that is saved has been checked: all losses before it and its
weights are finite. The weights are checked too, because a gradient can overflow in a step with a finite loss.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.utils.distributed import gather_over_ranks, sum_over_ranks

MAX_PENDING_STEPS = 1000  # unchecked losses, which keep the names of their utterances in memory
REMEDY = (
    "resume with a lower model.optim.lr, with trainer.gradient_clip_val=1.0, or with trainer.precision=bf16-mixed instead "
    "of 16-mixed."
)


class NonFiniteError(FloatingPointError):
    """Error for a loss or weight that is NaN or infinite.

    Args:
        message: message with the number, the step and what to do.
        step: optimizer step, counted from 0.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class _Step(NamedTuple):
    number: int
    utterances: list[str] | None
    loss: Tensor


class FiniteCheck:
    """Collects the losses since the last check, with the names of the utterances."""

    def __init__(self):
        self.steps: list[_Step] = []

    def remember(self, step: int, batch: SpeechBatch, loss: Tensor) -> None:
        """Adds the loss (scalar) of a batch, and checks all losses if there are many. Every rank must call it."""
        if len(self.steps) >= MAX_PENDING_STEPS:
            self.look()
        self.steps.append(_Step(step, batch.ids, loss.detach()))

    def look(self) -> None:
        """Checks the losses since the last call. Every rank must call it.

        Raises:
            NonFiniteError: on all ranks, if a loss of any rank is not finite; the message names the first one.
        """
        if not self.steps:
            return
        losses = torch.stack([step.loss for step in self.steps])
        finite = torch.isfinite(losses)
        (broken,) = sum_over_ranks((~finite).sum())
        if broken:
            found = [
                (s.number, float(s.loss), s.utterances)
                for s, fine in zip(self.steps, finite.tolist(), strict=True)
                if not fine
            ]
            of_all_ranks = [entry for entries in gather_over_ranks(found[:1]) for entry in entries]
            step, value, utterances = min(of_all_ranks, key=lambda entry: entry[0])
            raise NonFiniteError(_loss_message(step, value, utterances), step)
        self.steps = []


def check_weights(parameters: Iterable[Tensor], steps: int) -> None:
    """Checks the weights. Waits for the device.

    Args:
        parameters: parameters of the model, the same on all ranks.
        steps: number of optimizer steps so far.

    Raises:
        NonFiniteError: a weight is NaN or infinite.
    """
    largest = float(torch.nn.utils.get_total_norm(parameters, norm_type=math.inf))  # a sum of squares could overflow
    if not math.isfinite(largest):
        raise NonFiniteError(
            f"weights are not finite after {steps} steps, though the losses were: a gradient has overflowed. They are not "
            f"saved, and earlier checkpoints are finite. To continue from one, {REMEDY}",
            max(0, steps - 1),
        )


def check_validation(loss: float, steps: int) -> None:
    """Checks the validation loss over all ranks.

    Args:
        loss: validation loss, 0 if there were no frames.
        steps: number of optimizer steps so far.

    Raises:
        NonFiniteError: the loss is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise NonFiniteError(
            f"the validation loss is {loss} after {steps} steps, though weights and training losses are finite: activations "
            "overflow in evaluation mode, or running statistics are not finite. Nothing is saved, and earlier checkpoints "
            f"have finite weights. To continue from one, {REMEDY}",
            max(0, steps - 1),
        )


def _loss_message(step: int, loss: float, utterances: list[str] | None) -> str:
    return (
        f"the loss is {loss} at step {step}. Utterances of the batch: {', '.join(utterances or []) or 'names unknown'}. "
        "Nothing was saved after that step, and earlier checkpoints have finite weights. Listen to these utterances and "
        f"remove broken ones from the manifest; if they are fine, a gradient may have overflowed before: {REMEDY}"
    )
