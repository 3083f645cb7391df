"""An experiment's folder around NeMo's exp_manager: locked, with one checkpoint to go on from, and stopped by signals."""

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
"""Variable of the environment in which the first process tells those that Lightning starts what to resume from."""


class Experiment(NamedTuple):
    """A run that may train."""

    folder: Path | None
    """None without exp_manager."""
    end_if_signalled: Callable[[], None]
    """Ends all ranks, after the training, if one of them got a signal in its last step."""


@contextmanager
def experiment(trainer: Trainer, config: DictConfig | None, minutes: float | None) -> Iterator[Experiment]:
    """Prepares a trainer as NeMo's exp_manager does, for a run that any kill or signal may interrupt.

    Training takes place inside the block. A signal ends the process there, with a checkpoint and exit code 128 + its number.

    Args:
        trainer: of Lightning, without logger and checkpoint callback.
        config: node ``exp_manager``; None: no folder, no log, no checkpoint.
        minutes: between two checkpoints; None: only validations make them.

    Raises:
        ValueError: another run has the folder, none of its checkpoints can be read, or NeMo refuses the configuration.
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
        # Lightning kills the first process, which reports the exit code, when another one that it started ends with a code.
        resumes = bool(config.get("resume_if_exists"))
        stopping = StopAndGoOn(signals, minutes, resumes, exit_code=0 if child else None)
        trainer.callbacks.append(stopping)
        yield Experiment(log_folder, partial(stopping.end_if_signalled, trainer))
        stopping.end_if_signalled(trainer)


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Writes all lines of NeMo's logger to a file, and those before it; NeMo does so in its own tests only."""
    logging.add_file_handler(path)
    handler = logging._handlers.pop("file")
    try:
        yield
    finally:
        logging._logger.removeHandler(handler)
        handler.close()


def run_exp_manager(trainer: Trainer, config: DictConfig | None) -> Path | None:
    """Calls NeMo's ``exp_manager``, which compares ``trainer.max_epochs`` with ``trainer.check_val_every_n_epoch``.

    Where validations are counted in batches through all epochs, that is null; meanwhile 1 stands in its place.
    """
    every = trainer.check_val_every_n_epoch
    trainer.check_val_every_n_epoch = every or 1
    try:
        return exp_manager(trainer, config)
    finally:
        trainer.check_val_every_n_epoch = every


def _log_folder(trainer: Trainer, config: DictConfig) -> Path:
    keys = ("exp_dir", "name", "version", "explicit_log_dir", "use_datetime_version", "resume_if_exists")
    with logging.temp_verbosity(logging.ERROR):  # exp_manager says the same again
        return get_log_dir(trainer, **{key: config[key] for key in keys if key in config})[0]


def _on_first_rank(trainer: Trainer, act: Callable[[], Path | None]) -> str:
    """Returns the result of ``act`` on the first rank to all ranks, "" for None; raises its error on all.

    exp_manager reads the folder on every rank, so that the first one must have finished before.
    """
    if CHOSEN in os.environ:
        return os.environ[CHOSEN]
    if trainer.world_size == 1 or not trainer._accelerator_connector.cluster_environment.creates_processes_externally:
        chosen = str(act() or "") if is_global_rank_zero() else ""
        if trainer.world_size > 1:
            os.environ[CHOSEN] = chosen
        return chosen
    trainer.strategy.setup_environment()  # earlier than Lightning does, which finds it done
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
