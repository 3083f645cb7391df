"""Alarms of an unhealthy run: each is logged once, when its rule is first violated, and saved in ``alarms.json``.

    {"status": "running", "alarms": [{"name", "step", "value", "threshold", "message"}, ...]}

The file is in the folder of the experiment. ``status`` is ``running``, and at the end ``healthy``, ``unhealthy``,
``interrupted`` or ``too short to judge``: the run raised no alarm, but ended before the step from which the anchor task is
judged. A resumed run keeps the alarms of its checkpoint and those raised after the checkpoint was saved, and does not repeat
them. If no steps are left to train, it writes the file with these alarms and the verdict.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from lightning.pytorch import Trainer
from nemo.utils import logging

from nemo_birq.config import BiRQConfig
from nemo_birq.monitoring.alarm_rules import RULES, LoggedStep, Violation, is_learned
from nemo_birq.monitoring.finite_check import NonFiniteError
from nemo_birq.utils.files import write_json

FILE = "alarms.json"
TOO_SHORT = "too short to judge"
NUMBER = int, float, NoneType


FIELDS = {"name": str, "step": int, "value": NUMBER, "threshold": NUMBER, "message": str}
"""Keys of an alarm in the file, and the types of their values."""


class UnreadableDataError(RuntimeError):
    """Error for data of which too many utterances could not be used."""

    def __init__(self, violation: Violation):
        super().__init__(f"{violation.message} The last checkpoint is unchanged.")
        self.violation = violation


@dataclass
class Alarm:
    """An entry of ``alarms.json``."""

    name: str
    step: int
    value: float | None
    """The number beyond ``threshold``; None if there is none or it is not finite."""
    threshold: float | None
    message: str

    def __post_init__(self):
        self.value, self.threshold = (
            number if number is not None and math.isfinite(number) else None for number in (self.value, self.threshold)
        )  # JSON has no NaN


class Alarms:
    """Applies the rules to every logged step. All ranks keep the alarms; the first rank logs and writes them.

    Args:
        birq: configuration of the model, for thresholds and messages.
    """

    def __init__(self, birq: BiRQConfig):
        self.birq = birq
        self.raised: list[Alarm] = []
        self.path: Path | None = None
        self.at_peak_entropy: dict[str, float] | None = None
        """Metrics of the step with the highest entropy of the enhanced labels since their weight is above 0."""
        self.enhanced_learned = False
        """True if the model predicted the enhanced labels better than their frequencies do, at any logged step."""
        self.judged = birq.loss.anchor_weight == 0
        """True if the run has reached the step from which the anchor task is judged, or has no anchor task."""

    def choose_file(self, trainer: Trainer) -> None:
        """Sets the path of ``alarms.json`` in the folder of the experiment. Every rank must call it."""
        # The root is the folder of the experiment; the folder of a logger changes when the run is resumed.
        folder = trainer.default_root_dir
        if Path(folder) == Path.cwd():
            folder = trainer.log_dir if trainer.loggers else None  # a collective call
        self.path = Path(folder) / FILE if folder and trainer.is_global_zero else None

    def keep_earlier(self) -> None:
        """Adds the alarms that the interrupted part of a resumed run wrote."""
        if self.path is not None:
            self._keep(_written_before(self.path))

    def start(self) -> None:
        """Writes the file with the status ``running``."""
        self._write("running")

    def state_dict(self) -> dict[str, Any]:
        raised = [asdict(alarm) for alarm in self.raised]
        return {
            "raised": raised,
            "widest": self.at_peak_entropy,
            "judged": self.judged,
            "enhanced_learned": self.enhanced_learned,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.raised, self.at_peak_entropy, self.judged = [], state_dict["widest"], state_dict["judged"]
        self.enhanced_learned = state_dict.get("enhanced_learned", False)  # earlier versions did not save it
        if not math.isfinite((self.at_peak_entropy or {}).get("enhanced_normalized_entropy", 0.0)):
            self.at_peak_entropy = None  # otherwise no later entropy would be higher
        self._keep([Alarm(**alarm) for alarm in state_dict["raised"]])

    def check(self, trainer: Trainer, step: int, metrics: dict[str, float]) -> None:
        """Raises an alarm for each rule that is violated for the first time.

        Args:
            trainer: trainer of the run.
            step: optimizer step, counted from 0.
            metrics: metrics of this step by their names in the registry.
        """
        self.judged |= step + 1 >= self.birq.watch.learned_by_step
        logged = LoggedStep(step, metrics, self.birq, self.at_peak_entropy, self.enhanced_learned)
        for rule in RULES:
            violation = rule(logged)
            if violation is not None:
                self._add(trainer, Alarm(rule.__name__, step, *violation))
        self.enhanced_learned |= is_learned(metrics)
        entropy = metrics.get("enhanced_normalized_entropy", math.nan)
        if metrics["enhanced_weight"] > 0 and math.isfinite(entropy):
            peak = self.at_peak_entropy or metrics
            self.at_peak_entropy = max(peak, metrics, key=lambda m: m["enhanced_normalized_entropy"])

    @property
    def verdict(self) -> str:
        """Returns the status if training ends now: ``healthy``, ``unhealthy`` or ``too short to judge``."""
        return "unhealthy" if self.raised else "healthy" if self.judged else TOO_SHORT

    def finish(self, trainer: Trainer) -> None:
        """Writes the verdict to the file and to the log."""
        self._write(self.verdict)
        if not trainer.is_global_zero:
            return
        if not self.raised and self.judged:
            logging.info(f"This run was healthy: no alarm in {trainer.global_step} steps.")
            return
        if not self.raised:
            logging.info(
                f"No alarm in {trainer.global_step} steps; the anchor task is judged from step "
                f"{self.birq.watch.learned_by_step} on (model.birq.watch.learned_by_step)."
            )
            return
        lines = "\n".join(f"  step {alarm.step}, {alarm.name}: {alarm.message}" for alarm in self.raised)
        logging.warning(f"This run was not healthy, {len(self.raised)} alarm(s):\n{lines}")

    def interrupt(self, trainer: Trainer, exception: BaseException) -> None:
        """Raises the alarm that belongs to an exception, if any, and writes the status ``interrupted``."""
        if isinstance(exception, NonFiniteError):
            self._add(trainer, Alarm("non_finite_loss", exception.step, None, None, str(exception)))
        if isinstance(exception, UnreadableDataError):
            self._add(trainer, Alarm("unreadable_data", max(0, trainer.global_step - 1), *exception.violation))
        self._write("interrupted")

    def _add(self, trainer: Trainer, alarm: Alarm) -> None:
        if alarm.name in {earlier.name for earlier in self.raised}:
            return
        self.raised.append(alarm)
        if trainer.is_global_zero:
            logging.warning(f"ALARM {alarm.name} at step {alarm.step}: {alarm.message}")
        self._write("running")

    def _keep(self, earlier: list[Alarm]) -> None:
        known = {alarm.name for alarm in self.raised}
        self.raised += [alarm for alarm in earlier if alarm.name not in known]

    def _write(self, status: str) -> None:
        if self.path is not None:
            write_json(self.path, {"status": status, "alarms": [asdict(alarm) for alarm in self.raised]})


def _written_before(path: Path) -> list[Alarm]:
    """Reads the alarms of the interrupted part of the run, whose file NeMo's exp_manager has moved to ``run_<n>/``.

    A damaged file counts as empty; a warning names it.
    """
    moved = path.parent.glob(f"run_*/{path.name}")
    newest = path if path.exists() else max(moved, key=lambda file: file.stat().st_mtime, default=None)
    if newest is None:
        return []
    try:
        return _read(newest)
    except (OSError, ValueError, ArithmeticError, RecursionError) as error:  # ValueError includes invalid UTF-8 and JSON
        logging.warning(
            f"{newest} is damaged ({type(error).__name__}: {error}). The alarms of the checkpoint are kept; those that were "
            "raised after it was saved are lost, unless they are raised again. You can delete the file."
        )
        return []


def _read(path: Path) -> list[Alarm]:
    """Reads ``alarms.json``.

    Raises:
        OSError: the file cannot be read.
        ValueError: the content is not that of ``Alarms``.
        ArithmeticError: a number is too large.
        RecursionError: lists are nested too deeply.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    alarms = content.get("alarms") if isinstance(content, dict) else None
    if not isinstance(alarms, list):
        raise ValueError("it has no list of alarms")
    for alarm in alarms:
        if not isinstance(alarm, dict) or alarm.keys() != FIELDS.keys():
            raise ValueError(f"an alarm does not have the keys {', '.join(FIELDS)}")
        for key, types in FIELDS.items():
            value = alarm[key]
            number = isinstance(value, (int, float))
            if not isinstance(value, types) or isinstance(value, bool) or (number and not math.isfinite(value)):
                raise ValueError(f"{key} of an alarm is {str(value)[:80]}")
    return [Alarm(**alarm) for alarm in alarms]
