"""Writes an evaluation: label_quality.json and two pictures."""

import json
from pathlib import Path
from typing import Any

from nemo_birq.quality.evaluation import Evaluation
from nemo_birq.quality.pictures import draw_layers, draw_phones

RESULT = "label_quality.json"
PICTURES = {"label_quality_layers.png": draw_layers, "label_quality_phones.png": draw_phones}


def check_out(folder: Path, model: Path) -> None:
    """Makes the folder of the results.

    Raises:
        ValueError: the results of another model are in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULT
    if path.is_file() and Path(json.loads(path.read_text(encoding="utf-8"))["model"]).resolve() != model.resolve():
        raise ValueError(f"{path} holds the results of another model; give another folder with --out")


def write_results(evaluation: Evaluation, about: dict[str, Any], folder: Path) -> list[Path]:
    """Writes all files and gives their paths; ``about`` are further keys of the JSON file, the first ones."""
    result = about | {
        "num_codes": evaluation.rows[0].codes,
        "layer": evaluation.layer,
        "phone_entropy": evaluation.phone_entropy,
        "notes": evaluation.notes,
        "rows": [row.as_json() for row in evaluation.rows],
    }
    (folder / RESULT).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, draw in PICTURES.items():
        draw(evaluation, folder / name)
    return [folder / name for name in (RESULT, *PICTURES)]
