"""Label quality over the training of a run, at each of its checkpoints and at its end."""

import re
from pathlib import Path
from typing import Any

from nemo_birq.evaluation.label_quality.evaluation import evaluate
from nemo_birq.evaluation.label_quality.results import as_json
from nemo_birq.evaluation.label_quality.utterances import Utterances
from nemo_birq.loading import load_model
from nemo_birq.utils.progress import Progress, track


def models_of(run: Path) -> list[Path]:
    """Finds the models of a run: its checkpoints by step, then the ``.nemo`` of its end, if there is one.

    Args:
        run: the folder of a run, or its ``.nemo`` beside the checkpoints.

    Raises:
        FileNotFoundError: the folder does not exist, or has no model.
        ValueError: the folder holds the models of several runs.
    """
    if run.suffix == ".nemo":
        folder, ends = run.parent, [run]
    else:
        if not run.is_dir():
            raise FileNotFoundError(f"{run} is neither a folder nor a .nemo: name the folder of a run, or its .nemo")
        found = [path for path in run.rglob("*") if path.suffix in (".ckpt", ".nemo")]
        folders = sorted({path.parent for path in found})
        if not folders:
            raise FileNotFoundError(f"{run} holds no .ckpt and no .nemo: name the folder of a run that has validated once")
        if len(folders) > 1:
            named = ", ".join(map(str, folders))
            raise ValueError(f"{run} holds the models of several runs ({named}): name the folder of one")
        folder = folders[0]
        ends = sorted(folder.glob("*.nemo"))
        if len(ends) > 1:
            raise ValueError(f"{folder} holds {len(ends)} .nemo files: name one of them instead of the folder")
    checkpoints = {_step(path): path for path in sorted(folder.glob("*.ckpt"), reverse=True)}
    return [*(checkpoints[step] for step in sorted(checkpoints.keys() - {None})), *ends]


def _step(path: Path) -> int | None:
    """Returns the step in the name of a checkpoint; None for a moving average."""
    found = re.search(r"step=(\d+)(-last)?\.ckpt$", path.name)
    return int(found[1]) if found else None


def evaluate_run(run: Path, utterances: Utterances, progress: Progress, kmeans: bool = True) -> list[dict[str, Any]]:
    """Evaluates the labels of all models of a run.

    Args:
        run: as in ``models_of``.
        utterances: utterances with alignments.
        progress: shows the progress of the work.
        kmeans: also cluster the layers of the last model.

    Returns:
        Entries as in ``label_quality_<model>.json`` by step, with ``step`` and ``relabelled``, which is true if the anchor
        labels are those of a teacher.

    Raises:
        FileNotFoundError, ValueError: as ``models_of``, ``load_model`` and ``evaluation.evaluate``.
    """
    *checkpoints, last = models_of(run)

    def measure(path: Path, kmeans: bool) -> dict[str, Any]:
        model = load_model(path)
        steps = model.trained_steps  # None if it is not a checkpoint
        if steps is None:
            steps = int((model.cfg.get("pretraining") or {}).get("steps", 0))
        about = {"model": path.name, "step": steps, "relabelled": model.teacher is not None}
        return about | as_json(evaluate(model, utterances, progress, kmeans))

    end = measure(last, kmeans)
    others = [path for path in checkpoints if _step(path) != end["step"]]
    return [*(measure(path, kmeans=False) for path in track(others, progress, "checkpoints")), end]
