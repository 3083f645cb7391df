"""Stops a run whose numbers are not finite, without waiting for the device at every step.

Losses stay on the device until someone looks: at logged steps, before validation, and before anything is saved. So a NaN
may be trained on for some steps. Whatever is saved has been looked at: neither a loss before it nor its weights, which a
gradient can break in a step whose loss is finite, are NaN or infinite.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.utils.distributed import gather_over_ranks, sum_over_ranks

MAX_PENDING_STEPS = 1000  # losses that wait for a look, and keep their batch's names in memory
REMEDY = (
    "resume with a lower model.optim.lr, with trainer.gradient_clip_val=1.0, or with trainer.precision=bf16-mixed instead "
    "of 16-mixed."
)


class NonFiniteError(FloatingPointError):
    """Something is NaN or infinite.

    Args:
        message: says what, where, and what to do.
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
    """Remembers the losses since the last look, with the names of the utterances."""

    def __init__(self):
        self.steps: list[_Step] = []

    def remember(self, step: int, batch: SpeechBatch, loss: Tensor) -> None:
        """Adds the loss (scalar) of a batch; looks when there are many. Every rank must call it."""
        if len(self.steps) >= MAX_PENDING_STEPS:
            self.look()
        self.steps.append(_Step(step, batch.ids, loss.detach()))

    def look(self) -> None:
        """Every rank must call it.

        Raises:
            NonFiniteError: on all ranks, when a loss since the last look was not finite on any; it names the first.
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
    """Waits for the device.

    Args:
        parameters: of the model, the same on all ranks.
        steps: optimizer steps that made them.

    Raises:
        NonFiniteError: one of them is NaN or infinite.
    """
    largest = float(torch.nn.utils.get_total_norm(parameters, norm_type=math.inf))  # a sum of squares could overflow
    if not math.isfinite(largest):
        raise NonFiniteError(
            f"weights are not finite after {steps} steps, though the losses were: a gradient has overflowed. They are not "
            f"saved; what was saved before is finite. From there, {REMEDY}",
            max(0, steps - 1),
        )


def check_validation(loss: float, steps: int) -> None:
    """Looks at the loss over all ranks.

    Args:
        loss: of the validation data, 0 where no frame counted.
        steps: optimizer steps before.

    Raises:
        NonFiniteError: it is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise NonFiniteError(
            f"the validation loss is {loss} after {steps} steps, though weights and training losses are finite: activations "
            "overflow in evaluation mode, or running statistics are broken. Nothing is saved here; what was saved before "
            f"has finite weights. From there, {REMEDY}",
            max(0, steps - 1),
        )


def _loss_message(step: int, loss: float, utterances: list[str] | None) -> str:
    return (
        f"the loss is {loss} at step {step}; the batch held: {', '.join(utterances or []) or 'not known by name'}. "
        "Nothing was saved after that step, and what was saved before has finite weights. Listen to these utterances and "
        f"remove broken ones from the manifest; if they are fine, a gradient may have overflowed before: {REMEDY}"
    )
