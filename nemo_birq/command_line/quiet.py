"""Filter of the terminal output: it shows the lines of this package, and warnings that a user can act on.

All other lines of NeMo and Lightning only go to the log file in the folder of the run, which runs/experiment.py opens.
"""

import logging
from pathlib import Path

PACKAGE = str(Path(__file__).resolve().parents[1])
ONLY_IN_FILE = "Hydra config:"
"""Start of the long line with the resolved configuration, which only the file has."""
NOISE = (
    "No version folders would be created under the log folder",
    "There were no checkpoints found in checkpoint_dir",
    "The checkpoint callback was told to monitor a validation value and trainer's max_steps was set to",
    "exists and is not empty",
    "You tried to append scheduler",
    "Detected call of `lr_scheduler.step()` before `optimizer.step()`",
    "is a wandb run already in progress",
    "please call the ModelPT.setup_",
    "configuration keys are ignored by Lhotse dataloader",
    "requested tokenization during data sampling",
    "device pinned memory won't be used",
)
"""Parts of warnings that a user of these commands cannot act on."""
KEPT = ("Restoring states from the checkpoint path", "Restored all states", "Profiler Report")
"""Parts of the info lines of Lightning that are shown."""
LIGHTNING = ("lightning.pytorch", "lightning.fabric", "pytorch_lightning")


class BesideBars(logging.StreamHandler):
    """Handler that writes each record on a separate line above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        try:
            tqdm.write(self.format(record), file=self.stream)
        except Exception:  # as in the base class
            self.handleError(record)


def matters(record: logging.LogRecord) -> bool:
    """Returns True if a record belongs on the terminal."""
    message = record.getMessage()
    if record.pathname.startswith(PACKAGE):
        return not message.startswith(ONLY_IN_FILE)
    if record.levelno < logging.WARNING:
        return any(part in message for part in KEPT)
    return not any(noise in message for noise in NOISE)


def make_terminal_quiet() -> None:
    """Filters the lines of NeMo and Lightning on the terminal, and separates them from the progress bars."""
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
