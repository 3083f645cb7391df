"""Writes what a probe found, named after its model: probe_ctc_<model>.json and .png, or probe_frames_<model>."""

import json
from pathlib import Path
from typing import Any

from nemo_birq.evaluation.probing.evaluation import Row
from nemo_birq.evaluation.probing.pictures import draw
from nemo_birq.evaluation.probing.tasks import Task


def result_path(folder: Path, model: Path, task: str) -> Path:
    """The JSON file; checkpoints of one run each have their own."""
    return folder / f"probe_{task}_{model.stem}.json"


def check_out(folder: Path, model: Path, task: str) -> None:
    """Makes the folder of the results.

    Raises:
        ValueError: the results of another model of the same name are in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = result_path(folder, model, task)
    if path.is_file() and Path(json.loads(path.read_text(encoding="utf-8"))["model"]).resolve() != model.resolve():
        raise ValueError(f"{path} holds the results of another model; give another folder with --out")


def write_results(rows: list[Row], task: Task, model: Path, about: dict[str, Any], folder: Path) -> list[Path]:
    """Writes both files and gives their paths; ``about`` are further keys of the JSON file."""
    path = result_path(folder, model, task.name)
    result = {"model": str(model), "task": task.name, "metric": task.metric, "symbols": task.symbols} | about
    result["rows"] = [row.as_json() for row in rows]
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    picture = path.with_suffix(".png")
    draw(rows, task, f"{model.name}: what a linear classifier reads from it", picture)
    return [path, picture]
