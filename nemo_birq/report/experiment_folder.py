"""Reads the folder of NeMo's exp_manager: curves, configuration, command, alarms and label quality of a training run."""

import math
import re
import shlex
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from nemo_birq.report.events import Point, first_step, join, read_events
from nemo_birq.report.run_files import DAMAGED, read_alarms, read_command, read_config, read_quality

STATUS = {
    "healthy": "healthy: ended without an alarm",
    "unhealthy": "unhealthy: see the alarms",
    "too short to judge": "too short to judge: no alarm, but the run ended before the anchor task is judged",
    "interrupted": "interrupted",
    "running": "running, or stopped from outside",
    DAMAGED: "unknown: alarms.json is damaged",
    None: "not monitored: there is no alarms.json",
}
"""Descriptions of the ``status`` in ``alarms.json``; None: there is no such file."""


@dataclass(frozen=True)
class TrainingRun:
    """A run with all its resumptions."""

    name: str
    folder: Path
    curves: dict[str, list[Point]]
    steps: int
    config: dict[str, Any]
    """Values by dotted key: the whole configuration of the model, and the other keys that the command set."""
    command: str | None
    status: str | None
    alarms: list[dict[str, Any]]
    quality: list[dict[str, Any]]
    """Evaluations in ``label_quality*.json``, sorted by step. Those of a ``.nemo`` without a step come last."""
    seconds: float
    """Time from the first to the last logged number in seconds, summed over all parts of the run."""
    audio_hours: float | None
    """Estimated hours of audio that the model was trained on: the mean audio of a step times the steps."""
    notes: list[str] = field(default_factory=list)

    @property
    def began(self) -> datetime:
        """Local time of the first logged number."""
        return datetime.fromtimestamp(min(points[0].time for points in self.curves.values()))

    @property
    def enhanced_begins(self) -> int | None:
        """Returns the step at which the weight w1 of the enhanced loss is above 0 for the first time; None if never."""
        weights = self.curves.get("train_enhanced_weight", [])
        start, weight = (self.config.get(f"model.birq.loss.{key}") for key in ("start_step", "enhanced_weight"))
        if isinstance(start, int) and isinstance(weight, int | float):
            return start if weight > 0 else None
        return next((point.step for point in weights if point.value > 0), None)

    def last(self, tag: str) -> Point | None:
        """Returns the last point of a curve; None if the run did not log it."""
        points = self.curves.get(tag)
        return points[-1] if points else None


def read_runs(arguments: list[str]) -> list[TrainingRun]:
    """Reads runs given as ``FOLDER`` or ``NAME=FOLDER``.

    Raises:
        ValueError: a folder is missing, holds no run or several; two runs have the same name; one folder is given twice.
    """
    runs: dict[str, TrainingRun] = {}
    for argument in arguments:
        name, equals, folder = argument.partition("=")
        if not equals or Path(argument).exists():
            name, folder = "", argument
        run = read_run(Path(folder), name)
        for other in runs.values():
            if other.folder == run.folder:
                raise ValueError(f"{run.folder} is given twice. Give each folder once.")
        if run.name in runs:
            raise ValueError(
                f"Two runs have the name {run.name}: {runs[run.name].folder} and {run.folder}. Give them different names: "
                f"first={runs[run.name].folder} second={run.folder}"
            )
        runs[run.name] = run
    return list(runs.values())


def read_run(folder: Path, name: str = "") -> TrainingRun:
    """Reads one run. Its name is ``name``, or that of its folder. Its notes name damaged files, which are left out.

    Raises:
        ValueError: as ``read_runs``.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder. Name the folder of a run, such as nemo_experiments/<name>.")
    folder = folder.resolve()
    notes: list[str] = []
    files = read_events(folder, notes)
    root = _root(folder)
    above = root.parent if root.name.startswith("version_") else root
    curves = join(files)
    steps = max(_last_step(curves) + 1, *_checkpoints(above))  # steps are counted from 0
    arguments = read_command(above / "cmd-args.log", notes)
    config = read_config(_newest(folder, "hparams.yaml"), notes) | _overrides(arguments)
    alarms_path = _newest(root, "alarms.json") or _newest(above, "alarms.json")
    status, alarms = read_alarms(alarms_path, set(STATUS) - {DAMAGED}, notes)
    quality = [one for path in sorted(above.rglob("label_quality*.json")) for one in read_quality(path, notes)]
    return TrainingRun(
        name=name or (root.name if root is above else f"{above.name}/{root.name}"),
        folder=root,
        curves=curves,
        steps=steps,
        config=config,
        command=shlex.join(["python", *arguments]) if arguments else None,
        status=status,
        alarms=alarms,
        quality=sorted(quality, key=_quality_step),
        seconds=sum(_span(file) for file in files),
        audio_hours=_audio_hours(files, steps),
        notes=_resumptions(files) + notes,
    )


def _root(folder: Path) -> Path:
    """Returns the folder, at or under the given one, in which exp_manager wrote cmd-args.log."""
    roots = set()
    for events in folder.rglob("events.out*"):
        between = [events.parent, *events.parent.parents]
        between = between[: between.index(folder) + 1]
        roots.add(next((f for f in between if (f / "cmd-args.log").is_file()), folder))
    if len(roots) > 1:
        raise ValueError(f"{folder} holds several runs; name one or more of {', '.join(map(str, sorted(roots)))}")
    return roots.pop()


def _newest(folder: Path, name: str) -> Path | None:
    direct = folder / name
    return direct if direct.is_file() else max(folder.rglob(name), key=lambda p: p.stat().st_mtime, default=None)


def _overrides(arguments: list[str]) -> dict[str, str]:
    """Returns the keys that the command set outside of the model, without names of runs."""
    pairs = (argument.lstrip("+~").split("=", 1) for argument in arguments if "=" in argument)
    return {k: v for k, v in pairs if not k.startswith(("model.", "name", "exp_manager.name", "exp_manager.exp_dir"))}


def _quality_step(evaluation: dict[str, Any]) -> float:
    """Returns the step of an evaluation; infinity without a step, because a ``.nemo`` is written at the end of training."""
    return evaluation["step"] if isinstance(evaluation.get("step"), int) else math.inf


def _span(file: dict[str, list[Point]]) -> float:
    return max(points[-1].time for points in file.values()) - min(points[0].time for points in file.values())


def _last_step(curves: dict[str, list[Point]]) -> int:
    return max((points[-1].step for tag, points in curves.items() if "timing" not in tag), default=-1)


def _checkpoints(folder: Path) -> list[int]:
    """Returns the steps in the names of the checkpoints. The last checkpoint may be later than the last logged number."""
    return [int(found[1]) for path in folder.rglob("*.ckpt") if (found := re.search(r"step=(\d+)", path.name))] or [0]


def _audio_hours(files: list[dict[str, list[Point]]], steps_trained: int) -> float | None:
    """Estimates the hours of audio from the throughput, which is a mean since the previous log line.

    The first line of each file is left out, because the time before it is unknown.
    """
    logged = [file.get("train_audio_hours_per_hour", []) for file in files]
    pairs = [pair for points in logged for pair in pairwise(points)]
    steps = sum(now.step - before.step for before, now in pairs)
    hours = sum(now.value * (now.time - before.time) / 3600 for before, now in pairs)
    return hours / steps * steps_trained if steps else None


def _resumptions(files: list[dict[str, list[Point]]]) -> list[str]:
    notes = []
    for earlier, later in pairwise(files):
        begin = first_step(later)
        if begin is None:
            continue
        again = [p.step for points in earlier.values() for p in points if p.step >= begin]
        repeated = (
            f" The steps from there up to step {max(again)} were trained twice; the first time is left out." if again else ""
        )
        notes.append(f"Resumed: the next part logs from step {begin} on.{repeated}")
    return notes


def differences(runs: list[TrainingRun]) -> dict[str, list[Any]]:
    """Returns the keys of the configurations whose values differ between runs, with a value for each run.

    The value is None in a run that lacks the key. ``model.loss_list`` is left out: the model makes it from ``model.birq``.
    """
    keys = {key: None for run in runs for key in run.config if not key.startswith("model.loss_list.")}
    found = {key: [run.config.get(key) for run in runs] for key in keys}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}
