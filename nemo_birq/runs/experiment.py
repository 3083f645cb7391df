"""Preparation of a run around NeMo's exp_manager: lock of the folder, choice of the checkpoint, and handling of signals."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch import Trainer
from nemo.utils import logging
from nemo.utils.callbacks import NeMoModelCheckpoint
from nemo.utils.exp_manager import exp_manager, get_log_dir
from nemo.utils.get_rank import is_global_rank_zero
from omegaconf import DictConfig, OmegaConf

from nemo_birq.checkpoint.lightning_checkpoint import CompleteCheckpointIO
from nemo_birq.runs.checkpoints import LAST_NAME, settle
from nemo_birq.runs.lock import exclusive
from nemo_birq.runs.signals import Signals
from nemo_birq.runs.stopping import StopAndGoOn

LOG = "nemo_log.txt"
CHOSEN = "NEMO_BIRQ_CHECKPOINT"
"""Environment variable with the checkpoint to resume from, which the first process sets for those that Lightning starts."""


class Experiment(NamedTuple):
    """A run that is ready to train."""

    folder: Path | None
    """Folder of the run; None without exp_manager."""
    end_if_signalled: Callable[[], None]
    """Function that ends all ranks after the training if one of them received a signal in its last step."""


@contextmanager
def experiment(trainer: Trainer, config: DictConfig | None, minutes: float | None) -> Iterator[Experiment]:
    """Prepares a trainer with NeMo's exp_manager for a run that may be killed or interrupted by signals at any time.

    Training runs inside the block. A signal ends the process there, with a checkpoint and the exit code 128 + its number.

    Args:
        trainer: Lightning trainer without logger and checkpoint callback.
        config: node ``exp_manager``; None: no folder, no log, no checkpoint.
        minutes: minutes between two checkpoints; None: checkpoints are saved only after validations.

    Raises:
        ValueError: another run uses the folder, none of its checkpoints can be read, or NeMo refuses the configuration.
        OSError: the folder cannot be written.
    """
    signals = Signals()
    with signals.handled(), ExitStack() as stack:
        if config is None or trainer.fast_dev_run:
            yield Experiment(run_exp_manager(trainer, config), signals.end_if_received)
            return
        config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
        log_folder, name = _log_folder(trainer, config), config.get("name") or "default"
        folder = Path(OmegaConf.select(config, "checkpoint_callback_params.dirpath") or log_folder / "checkpoints")

        def open_folder() -> Path | None:
            stack.enter_context(exclusive(folder))
            average = OmegaConf.select(config, "ema.enable", default=False)
            return settle(folder, name, log_folder, average) if config.get("resume_if_exists") else None

        child = CHOSEN in os.environ
        if "://" not in str(folder) and (chosen := _on_first_rank(trainer, open_folder)):
            config.resume_from_checkpoint, config.resume_ignore_no_checkpoint = str(chosen), True
        if trainer.world_size > 1 and not child:
            stack.callback(os.environ.pop, CHOSEN, None)
        trainer.strategy.checkpoint_io = CompleteCheckpointIO()
        run_exp_manager(trainer, config)
        if trainer.is_global_zero:
            stack.enter_context(_log_file(log_folder / LOG))
        NeMoModelCheckpoint.CHECKPOINT_NAME_LAST = LAST_NAME.format(name=name)
        if trainer.strategy.launcher is not None:
            signals.before_end = lambda: trainer.strategy.launcher.kill(signal.SIGKILL)
        # If a process that Lightning started ends with an error code, Lightning kills the first one, which reports the code.
        resumes = bool(config.get("resume_if_exists"))
        stopping = StopAndGoOn(signals, minutes, resumes, exit_code=0 if child else None)
        trainer.callbacks.append(stopping)
        yield Experiment(log_folder, partial(stopping.end_if_signalled, trainer))
        stopping.end_if_signalled(trainer)


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Writes all lines of NeMo's logger to a file, including earlier ones; NeMo itself only does so in its tests."""
    logging.add_file_handler(path)
    handler = logging._handlers.pop("file")
    try:
        yield
    finally:
        logging._logger.removeHandler(handler)
        handler.close()


def run_exp_manager(trainer: Trainer, config: DictConfig | None) -> Path | None:
    """Calls NeMo's ``exp_manager``, which compares ``trainer.max_epochs`` with ``trainer.check_val_every_n_epoch``.

    The latter is null if the interval of validations is in batches over all epochs. It is set to 1 during the call.
    """
    every = trainer.check_val_every_n_epoch
    trainer.check_val_every_n_epoch = every or 1
    try:
        return exp_manager(trainer, config)
    finally:
        trainer.check_val_every_n_epoch = every


def _log_folder(trainer: Trainer, config: DictConfig) -> Path:
    keys = ("exp_dir", "name", "version", "explicit_log_dir", "use_datetime_version", "resume_if_exists")
    with logging.temp_verbosity(logging.ERROR):  # exp_manager logs the same again
        return get_log_dir(trainer, **{key: config[key] for key in keys if key in config})[0]


def _on_first_rank(trainer: Trainer, act: Callable[[], Path | None]) -> str:
    """Calls ``act`` on the first rank and returns its result on all ranks, "" for None; raises its error on all ranks.

    exp_manager reads the folder on every rank, so the first rank must have finished before.
    """
    if CHOSEN in os.environ:
        return os.environ[CHOSEN]
    if trainer.world_size == 1 or not trainer._accelerator_connector.cluster_environment.creates_processes_externally:
        chosen = str(act() or "") if is_global_rank_zero() else ""
        if trainer.world_size > 1:
            os.environ[CHOSEN] = chosen
        return chosen
    trainer.strategy.setup_environment()  # earlier than Lightning, which then skips it
    outcome = None
    if is_global_rank_zero():
        try:
            outcome = str(act() or ""), None
        except (ValueError, OSError) as error:
            outcome = "", str(error)
    chosen, error = trainer.strategy.broadcast(outcome)
    if error:
        raise ValueError(error)
    return chosen
