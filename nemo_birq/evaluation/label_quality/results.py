"""Writes an evaluation, named after its model: label_quality_<model>.json and two pictures."""

import json
from pathlib import Path
from typing import Any

from nemo_birq.evaluation.label_quality.evaluation import Evaluation
from nemo_birq.evaluation.label_quality.pictures import draw_layers, draw_phones

PICTURES = {"layers": draw_layers, "phones": draw_phones}


def result_path(folder: Path, model: Path) -> Path:
    """The JSON file for a model; checkpoints of one run each have their own."""
    return folder / f"label_quality_{model.stem}.json"


def check_out(folder: Path, model: Path) -> None:
    """Makes the folder of the results.

    Raises:
        ValueError: the results of another model of the same name are in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = result_path(folder, model)
    if path.is_file() and Path(json.loads(path.read_text(encoding="utf-8"))["model"]).resolve() != model.resolve():
        raise ValueError(f"{path} holds the results of another model; give another folder with --out")


def write_results(evaluation: Evaluation, model: Path, about: dict[str, Any], folder: Path) -> list[Path]:
    """Writes all files and gives their paths; ``about`` are further keys of the JSON file."""
    path = result_path(folder, model)
    result = (
        {"model": str(model)}
        | about
        | {
            "num_codes": evaluation.rows[0].codes,
            "layer": evaluation.layer,
            "phone_entropy": evaluation.phone_entropy,
            "notes": evaluation.notes,
            "rows": [row.as_json() for row in evaluation.rows],
        }
    )
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    pictures = {folder / f"{path.stem}_{name}.png": draw for name, draw in PICTURES.items()}
    for picture, draw in pictures.items():
        draw(evaluation, picture)
    return [path, *pictures]
