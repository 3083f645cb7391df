"""Writes an evaluation: label_quality_<model>.json and two pictures."""

from pathlib import Path
from typing import Any

from nemo_birq.evaluation.label_quality.evaluation import Evaluation
from nemo_birq.evaluation.label_quality.pictures import draw_layers, draw_phones
from nemo_birq.evaluation.results import result_path
from nemo_birq.utils.files import write_json

KIND = "label_quality"
PICTURES = {"layers": draw_layers, "phones": draw_phones}


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Returns the content of the JSON file of an evaluation."""
    return {
        "num_codes": evaluation.rows[0].codes,
        "layer": evaluation.layer,
        "phone_entropy": evaluation.phone_entropy,
        "notes": evaluation.notes,
        "rows": [row.as_json() for row in evaluation.rows],
    }


def write_results(evaluation: Evaluation, model: Path, about: dict[str, Any], folder: Path) -> list[Path]:
    """Writes all files and returns their paths; ``about`` are further keys of the JSON file."""
    path = result_path(folder, KIND, model)
    write_json(path, {"model": str(model)} | about | as_json(evaluation))
    pictures = {folder / f"{path.stem}_{name}.png": draw for name, draw in PICTURES.items()}
    for picture, draw in pictures.items():
        draw(evaluation, picture)
    return [path, *pictures]
