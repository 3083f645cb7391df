"""Writes the scores of probes: probe_ctc_<model>.json and .png, or probe_frames_<model>."""

from pathlib import Path
from typing import Any

from nemo_birq.evaluation.probing.evaluation import ProbeScore
from nemo_birq.evaluation.probing.pictures import draw
from nemo_birq.evaluation.probing.tasks import Task
from nemo_birq.evaluation.results import result_path
from nemo_birq.utils.files import write_json


def kind_of(task: Task) -> str:
    """Returns the prefix of the names of the files."""
    return f"probe_{task.name}"


def write_results(rows: list[ProbeScore], task: Task, model: Path, about: dict[str, Any], folder: Path) -> list[Path]:
    """Writes both files and returns their paths; ``about`` are further keys of the JSON file."""
    path = result_path(folder, kind_of(task), model)
    found = {"model": str(model), "task": task.name, "metric": task.metric, "symbols": task.symbols}
    write_json(path, found | about | {"rows": [row.as_json() for row in rows]})
    picture = path.with_suffix(".png")
    draw(rows, task, f"{model.name}: linear classifiers on frozen layers", picture)
    return [path, picture]
