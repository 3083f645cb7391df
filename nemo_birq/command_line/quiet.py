"""Shows on the terminal what a user reads: our own lines, and warnings that something can be done about.

Everything that NeMo and Lightning say besides goes to the log file in the run's folder, which runs/experiment.py opens.
"""

import logging
from pathlib import Path

PACKAGE = str(Path(__file__).resolve().parents[1])
ONLY_IN_FILE = "Hydra config:"
"""Begins the line of ours that is long: the resolved configuration."""
NOISE = (
    "No version folders would be created under the log folder",
    "There were no checkpoints found in checkpoint_dir",
    "The checkpoint callback was told to monitor a validation value and trainer's max_steps was set to",
    "exists and is not empty",
    "You tried to append scheduler",
    "Detected call of `lr_scheduler.step()` before `optimizer.step()`",
    "is a wandb run already in progress",
)
"""Parts of warnings that a user of these commands can do nothing about."""
KEPT = ("Restoring states from the checkpoint path", "Restored all states", "Profiler Report")
"""Parts of the lines of Lightning that a user wants to see."""
LIGHTNING = ("lightning.pytorch", "lightning.fabric", "pytorch_lightning")


class BesideBars(logging.StreamHandler):
    """Writes each record on a line of its own, above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        try:
            tqdm.write(self.format(record), file=self.stream)
        except Exception:  # as the class above does
            self.handleError(record)


def matters(record: logging.LogRecord) -> bool:
    """Tests if a record belongs on the terminal."""
    message = record.getMessage()
    if record.pathname.startswith(PACKAGE):
        return not message.startswith(ONLY_IN_FILE)
    if record.levelno < logging.WARNING:
        return any(part in message for part in KEPT)
    return not any(noise in message for noise in NOISE)


def make_terminal_quiet() -> None:
    """Filters what NeMo and Lightning show on the terminal, and keeps their lines apart from the progress bars."""
    import nemo.collections.asr  # noqa: F401  with it NeMo and Lightning make the handlers that are replaced here
    from nemo.utils import logging as nemo_logging

    for logger in (nemo_logging._logger, logging.getLogger(), *map(logging.getLogger, LIGHTNING)):
        for handler in [h for h in logger.handlers if type(h) is logging.StreamHandler]:
            beside = BesideBars(handler.stream)
            beside.setFormatter(handler.formatter)
            beside.setLevel(handler.level)
            beside.filters = [*handler.filters, matters]
            logger.removeHandler(handler)
            logger.addHandler(beside)
