"""One progress bar over all steps of a run, instead of one for each epoch."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm, convert_inf

HIDDEN = ("v_num", "train_step_timing in s", "train_backward_timing in s")
"""Metrics that Lightning and NeMo show in every bar."""
SECONDS_IN_A_FILE = 60.0  # interval in a log file, for example of a scheduler, which keeps every state of the bar


class RunProgressBar(TQDMProgressBar):
    """Progress bar of the optimizer steps of the whole run, including those before it was resumed.

    Args:
        refresh_rate: steps between two states of the bar.
        num_steps: length of the run, for loaders whose length Lightning does not know.
    """

    def __init__(self, refresh_rate: int = 1, num_steps: int | None = None):
        super().__init__(refresh_rate)
        self.num_steps = num_steps

    def init_train_tqdm(self) -> Tqdm:
        bar = super().init_train_tqdm()
        bar.unit = "step"
        if not sys.stdout.isatty():
            bar.mininterval = SECONDS_IN_A_FILE
        return bar

    def init_sanity_tqdm(self) -> Tqdm:
        return super().init_sanity_tqdm() if sys.stdout.isatty() else Tqdm(disable=True)

    def init_validation_tqdm(self) -> Tqdm:
        return super().init_validation_tqdm() if sys.stdout.isatty() else Tqdm(disable=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        bar = self.train_progress_bar
        bar.reset(self.num_steps or convert_inf(trainer.estimated_stepping_batches))
        bar.initial = bar.n = trainer.global_step  # so that the rate excludes the steps before resuming
        bar.set_description("Training")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the bar, which Lightning would reset."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        bar, step = self.train_progress_bar, trainer.global_step
        if self._should_update(step, bar.total) and step > bar.n:
            bar.set_postfix(self.get_metrics(trainer, pl_module), refresh=False)
            bar.update(step - bar.n)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name not in HIDDEN}


def show_whole_run(trainer: Trainer, num_steps: int | None = None) -> None:
    """Replaces the progress bar of a trainer, if it has one; ``num_steps`` is the length where Lightning knows none."""
    for number, callback in enumerate(trainer.callbacks):
        if type(callback) is TQDMProgressBar:
            trainer.callbacks[number] = RunProgressBar(callback.refresh_rate, num_steps)
