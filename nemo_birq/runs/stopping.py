"""Checkpoints between validations: after a signal, and at time intervals."""

import signal
import time
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from nemo.utils import logging

from nemo_birq.runs.signals import Signals, shield_workers


class StopAndGoOn(Checkpoint):
    """Callback that saves the last checkpoint at the end of a step: after a signal, and at time intervals.

    All ranks decide together, by one all-reduce on the host at each step. It is a ``Checkpoint``, because Lightning calls
    these callbacks last, when the step is logged.

    Args:
        signals: received signals.
        minutes: minutes between two checkpoints; None: checkpoints are saved only after validations.
        resumes: the same command resumes from the last checkpoint.
        exit_code: exit code of this process after a signal; None: 128 + its number.
    """

    def __init__(self, signals: Signals, minutes: float | None, resumes: bool, exit_code: int | None = None):
        self.signals = signals
        self.resumes = resumes
        self.interval = float("inf") if minutes is None else 60 * minutes
        self.exit_code = exit_code
        self._saved = time.monotonic()
        self._step = 0
        self._group: dist.ProcessGroup | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for loaders in (pl_module._train_dl, pl_module._validation_dl):  # the loaders of a NeMo model, before workers start
            for loader in loaders if isinstance(loaders, list) else [loaders]:
                shield_workers(loader)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step, self._saved = trainer.global_step, time.monotonic()
        if trainer.ckpt_path and isinstance(trainer.checkpoint_callback, ModelCheckpoint):
            # A copied best checkpoint still names the previous last one, so this one would never be removed.
            trainer.checkpoint_callback.last_model_path = str(trainer.ckpt_path)
        if trainer.world_size > 1:
            self._group = dist.new_group(backend="gloo")
        self.signals.deferred = True
        self.signals.install()
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self.signals.install_requeue(environment.requeue_signal or signal.SIGUSR1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return  # an optimizer step with several batches is not complete
        self._step = trainer.global_step
        received, requeue, due = self._agreed(trainer)
        if requeue:
            self.signals.requeue = 0
            # Saves hpc_ckpt_*.ckpt and calls scontrol here, because the handler may run in the middle of a step.
            trainer._signal_connector._slurm_sigusr_handler_fn(requeue, None)
        if trainer.fit_loop.epoch_loop._is_training_done:
            return  # Lightning saves the checkpoint at the end of training
        if received:
            self._stop(trainer, received)
        elif due:
            self._save(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stops within a validation, which the resumed run repeats."""
        if trainer.sanity_checking or not self.signals.deferred or trainer.fit_loop.epoch_loop._is_training_done:
            return
        if received := self._agreed(trainer)[0]:
            self._stop(trainer, received)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.deferred = False  # everything is saved

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._saved = time.monotonic()

    def end_if_signalled(self, trainer: Trainer) -> None:
        """Ends the process after a training if any rank received a signal in the last step.

        Raises:
            SystemExit: with the code of the signal.
        """
        if self._group is not None:
            self.signals.received = self._agreed(trainer)[0]
        if self.signals.received and self.exit_code is not None:
            raise SystemExit(self.exit_code)
        self.signals.end_if_received()

    def _agreed(self, trainer: Trainer) -> tuple[int, int, int]:
        """Returns the maximum over ranks of: signal to stop, signal to requeue, and 1 if a checkpoint is due."""
        own = [self.signals.received, self.signals.requeue, int(time.monotonic() - self._saved > self.interval)]
        if trainer.world_size == 1:
            return tuple(own)
        shared = torch.tensor(own)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=self._group)
        return tuple(shared.tolist())

    def _stop(self, trainer: Trainer, number: int) -> None:
        path = self._save(trainer)
        remedy = "The same command resumes from " if self.resumes else "To resume, add exp_manager.resume_from_checkpoint="
        saved = f"{remedy}{path}" if path else "Nothing is saved, because exp_manager creates no checkpoints"
        logging.info(f"{signal.Signals(number).name}: training has stopped after {trainer.global_step} steps. {saved}")
        raise SystemExit(128 + number if self.exit_code is None else self.exit_code)

    def _save(self, trainer: Trainer) -> str | None:
        callback = trainer.checkpoint_callback
        if not isinstance(callback, ModelCheckpoint):
            return None
        if callback._last_global_step_saved != trainer.global_step or not callback.last_model_path:
            callback._save_last_checkpoint(trainer, callback._monitor_candidates(trainer))
        return callback.last_model_path
