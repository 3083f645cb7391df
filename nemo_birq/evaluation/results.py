"""Files with the results of an evaluation, named after its model: ``<kind>_<model>.json`` and pictures."""

from pathlib import Path

from nemo_birq.utils.files import read_json


def result_path(folder: Path, kind: str, model: Path) -> Path:
    """Returns the path of the JSON file of a kind of evaluation; each checkpoint of a run has its own."""
    return folder / f"{kind}_{model.stem}.json"


def check_out(folder: Path, kind: str, model: Path) -> None:
    """Makes the folder of the results.

    Raises:
        ValueError: the folder has results of another model with the same name, or a damaged file of this name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = result_path(folder, kind, model)
    if not path.is_file():
        return
    before = read_json(path).get("model")
    if not isinstance(before, str):
        raise ValueError(f"{path} is damaged: it names no model. Move it away, or name another folder with --out")
    if Path(before).resolve() != model.resolve():
        raise ValueError(f"{path} holds the results of another model; name another folder with --out")
