"""One progress bar over all steps of a run, in place of Lightning's one for each epoch."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm, convert_inf

HIDDEN = ("v_num", "train_step_timing in s", "train_backward_timing in s")
"""Metrics that Lightning and NeMo show in every bar."""


class RunProgressBar(TQDMProgressBar):
    """Shows the optimizer steps of the whole run, those before a resumption among them, and the time that is left."""

    def init_train_tqdm(self) -> Tqdm:
        bar = super().init_train_tqdm()
        bar.unit = "step"
        return bar

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        bar = self.train_progress_bar
        bar.reset(convert_inf(trainer.estimated_stepping_batches))
        bar.initial = bar.n = trainer.global_step  # the rate is that of this start
        bar.set_description("Training")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the bar as it is; Lightning begins it again."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        bar, step = self.train_progress_bar, trainer.global_step
        if self._should_update(step, bar.total) and step > bar.n:
            bar.update(step - bar.n)
            bar.set_postfix(self.get_metrics(trainer, pl_module))

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name not in HIDDEN}


def show_whole_run(trainer: Trainer) -> None:
    """Replaces the progress bar of a trainer, if it has one."""
    for number, callback in enumerate(trainer.callbacks):
        if type(callback) is TQDMProgressBar:
            trainer.callbacks[number] = RunProgressBar(callback.refresh_rate)
