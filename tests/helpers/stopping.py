"""Training of the tiny configuration that is stopped right after a checkpoint, and a logger that keeps its input."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra import compose, initialize_config_dir
from lightning.pytorch.loggers.logger import Logger

from nemo_birq import BiRQModel
from tests.helpers.paths import ROOT
from tests.helpers.resume_worker import OVERRIDES


class StoppedError(BaseException):
    """Ends a run in this process like a signal."""


class Recorder(Logger):
    """Keeps every line that it gets: the step, and the metrics by name."""

    name = version = "recorder"

    def __init__(self):
        self.lines: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.lines.append((step, metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


class StopAfter(pl.Callback):
    """Saves a checkpoint in a hook after some steps, and stops there; keeps the steps after which validation ran.

    Args:
        stop: hook (``batch``, ``validation`` or ``epoch``) and number of steps, or None.
        path: of the checkpoint.
    """

    def __init__(self, stop: tuple[str, int] | None, path: Path):
        self.stop, self.path = stop, path
        self.validated: list[tuple[int, int]] = []
        """Steps before and batches of each validation."""

    def _reached(self, hook: str, trainer: pl.Trainer) -> None:
        if self.stop == (hook, trainer.global_step) and not trainer.fit_loop._should_accumulate():
            trainer.save_checkpoint(self.path)
            raise StoppedError

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self._reached("batch", trainer)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.batches = batch_idx + 1

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.validated.append((trainer.global_step, self.batches))
            self._reached("validation", trainer)

    def on_train_epoch_end(self, trainer, pl_module):
        self._reached("epoch", trainer)


def train_tiny(folder: Path, stop: tuple[str, int] | None = None, ckpt: Path | None = None, overrides=(), **options):
    """Trains until ``stop`` or the end; returns the model, what was logged, and the callback."""
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose("birq_conformer_tiny", overrides=[*OVERRIDES, "model.train_ds.num_workers=0", *overrides])
    pl.seed_everything(1)
    recorder, stopping = Recorder(), StopAfter(stop, folder / "stopped.ckpt")
    trainer = pl.Trainer(
        accelerator="cpu", logger=recorder, callbacks=[stopping], default_root_dir=folder, inference_mode=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        **options,
    )  # fmt: skip
    model = BiRQModel(cfg=cfg.model, trainer=trainer)
    with suppress(StoppedError):
        trainer.fit(model, ckpt_path=ckpt)
    return model, recorder.lines, stopping
