"""Reads the folder of NeMo's exp_manager: curves, configuration, command, alarms and label quality of a training run."""

import json
import math
import re
import shlex
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from nemo_birq.report.events import Point, first_step, join, read_events

STATUS = {
    "healthy": "healthy: ended without an alarm",
    "unhealthy": "not healthy: see the alarms",
    "too short to judge": "too short to judge: no alarm, but the run ended before the anchor task is judged",
    "interrupted": "interrupted",
    "running": "running, or stopped from outside",
    None: "not monitored: there is no alarms.json",
}
"""Words for the ``status`` of ``alarms.json``; None where there is no such file."""


@dataclass(frozen=True)
class TrainingRun:
    """A run with all its resumptions."""

    name: str
    folder: Path
    curves: dict[str, list[Point]]
    steps: int
    config: dict[str, Any]
    """Flat, as ``model.optim.lr``: the whole configuration of the model, and what the command set of the other parts."""
    command: str | None
    status: str | None
    alarms: list[dict[str, Any]]
    quality: list[dict[str, Any]]
    """Contents of ``label_quality*.json`` by step. Those of a ``.nemo``, which does not name its step, come last."""
    seconds: float
    """Sum over all parts of the time from the first to the last logged number."""
    audio_hours: float | None
    """Estimated hours of audio that the model was trained on: the mean audio of a step times the steps."""
    notes: list[str] = field(default_factory=list)

    @property
    def began(self) -> datetime:
        """Local time of the first logged number."""
        return datetime.fromtimestamp(min(points[0].time for points in self.curves.values()))

    def last(self, tag: str) -> Point | None:
        """Returns the last point of a curve; None where the run did not log it."""
        points = self.curves.get(tag)
        return points[-1] if points else None


def read_runs(arguments: list[str]) -> list[TrainingRun]:
    """Reads runs given as ``FOLDER`` or ``NAME=FOLDER``.

    Raises:
        ValueError: a folder is missing, holds no run or several, or holds an unreadable file; two runs have the same name;
            one folder is given twice.
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
                f"Two runs are called {run.name}: {runs[run.name].folder} and {run.folder}. Give them names: "
                f"first={runs[run.name].folder} second={run.folder}"
            )
        runs[run.name] = run
    return list(runs.values())


def read_run(folder: Path, name: str = "") -> TrainingRun:
    """Reads one run. Its name is ``name``, or that of its folder.

    Raises:
        ValueError: as ``read_runs``.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder. Name the folder of a run, such as nemo_experiments/<name>.")
    folder = folder.resolve()
    damaged: list[str] = []
    files = read_events(folder, damaged)
    root = _root(folder)
    above = root.parent if root.name.startswith("version_") else root
    curves = join(files)
    steps = max(_last_step(curves) + 1, *_checkpoints(above))  # steps are counted from 0
    arguments = _command(above)
    config = _flat(_yaml(_newest(folder, "hparams.yaml"))) | _overrides(arguments)
    alarms = _json(_newest(root, "alarms.json") or _newest(above, "alarms.json"))
    quality = [_json(path) | {"file": path.name} for path in sorted(above.rglob("label_quality*.json"))]
    for found, path in ((alarms, "alarms.json"), *((q, q["file"]) for q in quality)):
        key = "alarms" if path == "alarms.json" else "rows"
        if found and not isinstance(found.get(key), list):
            raise ValueError(
                f"{path} of {root} has no list {key!r}: another program wrote it, or it is incomplete. Remove it."
            )
    return TrainingRun(
        name=name or (root.name if root is above else f"{above.name}/{root.name}"),
        folder=root,
        curves=curves,
        steps=steps,
        config=config,
        command=shlex.join(["python", *arguments]) if arguments else None,
        status=alarms.get("status"),
        alarms=alarms.get("alarms", []),
        quality=sorted(quality, key=_quality_step),
        seconds=sum(_span(file) for file in files),
        audio_hours=_audio_hours(files, steps),
        notes=[*damaged, *_resumptions(files)],
    )


def _root(folder: Path) -> Path:
    """Returns the folder, at or under the given one, in which exp_manager wrote cmd-args.log."""
    roots = set()
    for events in folder.rglob("events.out*"):
        between = [events.parent, *events.parent.parents]
        between = between[: between.index(folder) + 1]
        roots.add(next((f for f in between if (f / "cmd-args.log").is_file()), folder))
    if len(roots) > 1:
        raise ValueError(f"{folder} holds several runs; name those that you mean: {', '.join(map(str, sorted(roots)))}")
    return roots.pop()


def _newest(folder: Path, name: str) -> Path | None:
    direct = folder / name
    return direct if direct.is_file() else max(folder.rglob(name), key=lambda p: p.stat().st_mtime, default=None)


def _json(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as JSON ({error}). Repair it, or move it away.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object. Repair it, or move it away.")
    return found


def _yaml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not readable as YAML ({error}). Repair it, or move it away.") from error
    return {"model": found.pop("cfg")} | found if "cfg" in found else found


def _command(folder: Path) -> list[str]:
    """Returns the arguments of the command. NeMo joins them by blanks, so an argument with a blank inside is split."""
    path = folder / "cmd-args.log"
    return path.read_text(encoding="utf-8").split() if path.is_file() else []


def _overrides(arguments: list[str]) -> dict[str, str]:
    """Returns what the command set outside of the model, whose configuration is known in full, without names of runs."""
    pairs = (argument.lstrip("+~").split("=", 1) for argument in arguments if "=" in argument)
    return {k: v for k, v in pairs if not k.startswith(("model.", "name", "exp_manager.name", "exp_manager.exp_dir"))}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value} if prefix else {}
    return {
        k: v for name, inner in value.items() for k, v in _flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def _quality_step(evaluation: dict[str, Any]) -> float:
    """Returns the step of an evaluation; infinity without a step, as a ``.nemo`` is written at the end of training."""
    return evaluation["step"] if isinstance(evaluation.get("step"), int) else math.inf


def _span(file: dict[str, list[Point]]) -> float:
    return max(points[-1].time for points in file.values()) - min(points[0].time for points in file.values())


def _last_step(curves: dict[str, list[Point]]) -> int:
    return max(points[-1].step for tag, points in curves.items() if "timing" not in tag)


def _checkpoints(folder: Path) -> list[int]:
    """Returns the steps in the names of the checkpoints. The last checkpoint may be later than the last logged number."""
    return [int(found[1]) for path in folder.rglob("*.ckpt") if (found := re.search(r"step=(\d+)", path.name))] or [0]


def _audio_hours(files: list[dict[str, list[Point]]], steps_trained: int) -> float | None:
    """Estimates the audio from the throughput, which is a mean since the log line before it.

    The first line of each file is left out, since the time before it is not known.
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
