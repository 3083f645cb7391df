"""Tells the user in words, once and at once, that a run is sick; keeps it in ``alarms.json`` in the experiment's folder.

    {"status": "running", "alarms": [{"name", "step", "value", "threshold", "message"}, ...]}

``status`` is ``running``, and at the end ``healthy``, ``unhealthy``, ``interrupted``, or ``too short to judge``: no alarm,
but it ended before the step from which on the anchor task is judged. A resumed run keeps earlier alarms and does not repeat
them: those of the checkpoint, and those that were raised after it was saved.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from nemo.utils import logging

from nemo_birq.config import BiRQConfig
from nemo_birq.monitoring.alarm_rules import RULES, Finding, Look
from nemo_birq.monitoring.finite_check import NonFiniteError

FILE = "alarms.json"
TOO_SHORT = "too short to judge"


class UnreadableDataError(RuntimeError):
    """Too much of the data could not be used."""

    def __init__(self, finding: Finding):
        super().__init__(f"{finding.message} The last checkpoint is untouched.")
        self.finding = finding


@dataclass
class Alarm:
    """An alarm as the file has it."""

    name: str
    step: int
    value: float | None
    """Of the number that is beyond ``threshold``; None where it is not finite."""
    threshold: float | None
    message: str


class Alarms(Callback):
    """Looks at the numbers of every logged step. Works on all ranks, speaks and writes on the first.

    Args:
        birq: configuration of the model, for the rules and for the words.
    """

    def __init__(self, birq: BiRQConfig):
        self.birq = birq
        self.raised: list[Alarm] = []
        self.path: Path | None = None
        self.widest: dict[str, float] | None = None
        self.judged = birq.loss.anchor_weight == 0
        """The anchor task was looked at when it should have been learned."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # NeMo's exp_manager makes the experiment's folder the root; a logger's folder is another one after resuming.
        folder = trainer.default_root_dir
        if Path(folder) == Path.cwd():
            folder = trainer.log_dir if trainer.loggers else None  # all ranks must ask for it
        self.path = Path(folder) / FILE if folder and trainer.is_global_zero else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.path is not None and trainer.global_step > 0:
            self._keep(_written_before(self.path))
        self._write("running")

    def state_dict(self) -> dict[str, Any]:
        return {"raised": [asdict(alarm) for alarm in self.raised], "widest": self.widest, "judged": self.judged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.raised, self.widest, self.judged = [], state_dict["widest"], state_dict["judged"]
        self._keep(state_dict["raised"])

    def check(self, trainer: Trainer, step: int, metrics: dict[str, float]) -> None:
        """Raises the alarms that have become true.

        Args:
            trainer: that trains.
            step: optimizer step, counted from 0.
            metrics: of this step, without ``train_``.
        """
        self.judged |= step + 1 >= self.birq.watch.learned_by_step
        look = Look(step, metrics, self.birq, self.widest)
        for rule in RULES:
            finding = rule(look)
            if finding is not None:
                self._add(trainer, Alarm(rule.__name__, step, *finding))
        if metrics["enhanced_weight"] > 0 and "enhanced_normalized_entropy" in metrics:
            self.widest = max(self.widest or metrics, metrics, key=lambda m: m["enhanced_normalized_entropy"])

    @property
    def verdict(self) -> str:
        """``healthy``, ``unhealthy`` or ``too short to judge``: what the file says if training ends now."""
        return "unhealthy" if self.raised else "healthy" if self.judged else TOO_SHORT

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
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
        told = "\n".join(f"  step {alarm.step}, {alarm.name}: {alarm.message}" for alarm in self.raised)
        logging.warning(f"This run was not healthy, {len(self.raised)} alarm(s):\n{told}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, NonFiniteError):
            self._add(trainer, Alarm("non_finite_loss", exception.step, None, None, str(exception)))
        if isinstance(exception, UnreadableDataError):
            self._add(trainer, Alarm("unreadable_data", max(0, trainer.global_step - 1), *exception.finding))
        self._write("interrupted")

    def _add(self, trainer: Trainer, alarm: Alarm) -> None:
        if alarm.name in {earlier.name for earlier in self.raised}:
            return
        self.raised.append(alarm)
        if trainer.is_global_zero:
            logging.warning(f"ALARM {alarm.name} at step {alarm.step}: {alarm.message}")
        self._write("running")

    def _keep(self, earlier: list[dict[str, Any]]) -> None:
        known = {alarm.name for alarm in self.raised}
        self.raised += [Alarm(**alarm) for alarm in earlier if alarm["name"] not in known]

    def _write(self, status: str) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({"status": status, "alarms": [_plain(alarm) for alarm in self.raised]}, indent=1))


def _written_before(path: Path) -> list[dict[str, Any]]:
    """Alarms of the part of the run before; NeMo's exp_manager has moved its file to ``run_<n>/``."""
    moved = path.parent.glob(f"run_*/{path.name}")
    newest = path if path.exists() else max(moved, key=lambda file: file.stat().st_mtime, default=None)
    return [] if newest is None else json.loads(newest.read_text())["alarms"]


def _plain(alarm: Alarm) -> dict[str, Any]:
    finite = alarm.value is None or math.isfinite(alarm.value)  # JSON knows no NaN
    return asdict(alarm) | ({} if finite else {"value": None})
