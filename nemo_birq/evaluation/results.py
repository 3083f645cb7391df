"""Files with the results of an evaluation, named after its model: ``<kind>_<model>.json`` and pictures."""

import json
from pathlib import Path


def result_path(folder: Path, kind: str, model: Path) -> Path:
    """Returns the JSON file of a kind of evaluation of a model; checkpoints of one run each have their own."""
    return folder / f"{kind}_{model.stem}.json"


def check_out(folder: Path, kind: str, model: Path) -> None:
    """Makes the folder of the results.

    Raises:
        ValueError: the results of another model of the same name are in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = result_path(folder, kind, model)
    if path.is_file() and Path(json.loads(path.read_text(encoding="utf-8"))["model"]).resolve() != model.resolve():
        raise ValueError(f"{path} holds the results of another model; give another folder with --out")
