"""Stops a run whose loss is not finite, without waiting for the device at every step.

Losses stay on the device until someone looks: at logged steps, before validation, and before anything is saved. So a NaN
may be trained on for some steps, but what lies on the disk is from before it.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.distributed import sum_over_ranks, world_size


class _Step(NamedTuple):
    number: int
    utterances: list[str] | None
    loss: Tensor


class FiniteCheck:
    """Remembers the losses since the last look, with the names of the utterances."""

    def __init__(self):
        self.steps: list[_Step] = []

    def remember(self, step: int, batch: SpeechBatch, loss: Tensor) -> None:
        """Adds the loss (scalar) of a batch."""
        self.steps.append(_Step(step, batch.ids, loss.detach()))

    def look(self) -> None:
        """Every rank must call it.

        Raises:
            FloatingPointError: on all ranks, when a loss since the last look was not finite on any; it names the first.
        """
        steps, self.steps = self.steps, []
        if not steps:
            return
        losses = torch.stack([step.loss for step in steps])
        finite = torch.isfinite(losses)
        (broken,) = sum_over_ranks((~finite).sum())
        if broken:
            found = [
                (s.number, float(s.loss), s.utterances) for s, fine in zip(steps, finite.tolist(), strict=True) if not fine
            ]
            raise FloatingPointError(_message(*_first_of_all_ranks(found[:1])))


def _first_of_all_ranks(found: list) -> tuple:
    if world_size() > 1:
        gathered = [None] * world_size()
        dist.all_gather_object(gathered, found)
        found = [entry for of_rank in gathered for entry in of_rank]
    return min(found, key=lambda entry: entry[0])


def _message(step: int, loss: float, utterances: list[str] | None) -> str:
    return (
        f"the loss is {loss} at step {step}; the batch held: {', '.join(utterances or []) or 'not known by name'}. "
        "Training stopped before anything was saved with it: the last checkpoint is from before that step. Listen to "
        "these utterances and remove broken ones from the manifest; if they are fine, resume with a lower model.optim.lr, "
        "with trainer.gradient_clip_val=1.0, or with trainer.precision=bf16-mixed instead of 16-mixed."
    )
