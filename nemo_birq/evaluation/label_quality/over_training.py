"""Label quality over the training of a run: of each of its checkpoints, and of its end."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scipy.stats import entropy

from nemo_birq.evaluation.label_quality.evaluation import Evaluation, evaluate
from nemo_birq.evaluation.label_quality.utterances import Utterances
from nemo_birq.loading import load_model
from nemo_birq.model import BiRQModel
from nemo_birq.utils.progress import Progress, track

KEPT = ("pnmi", "pnmi_by_chance", "phone_purity", "cluster_purity", "codes_used")


def checkpoints_of(nemo: Path) -> list[Path]:
    """Finds the checkpoints beside the ``.nemo`` that the run ended with, by step; ``-last.ckpt`` repeats one of them."""
    found = {int(m[1]): path for path in nemo.parent.glob("*.ckpt") if (m := re.search(r"step=(\d+)\.ckpt$", path.name))}
    return [found[step] for step in sorted(found)]


def score_checkpoints(nemo: Path, utterances: Utterances, progress: Progress) -> list[dict[str, Any]]:
    """Scores the labels of each checkpoint: rows with ``step``, ``labels`` and the values of ``pnmi.Quality``.

    ``labels`` are ``anchor`` (or ``relabelled``, made by a teacher), ``enhanced``, ``nearest``, and at the end ``kmeans``
    of each ``layer``, into as many clusters as there are codes. ``nearest`` are the nearest codes of layer k, normalized by
    the statistics of these utterances whatever the model has learned, so that methods can be compared.

    Args:
        nemo: that the run ended with, or one that was never trained; its checkpoints lie beside it.
        utterances: with alignments.
        progress: shows how far the work is.

    Returns:
        ``entropy``, in nats, is that of the label's frequencies over all frames with a phone.

    Raises:
        FileNotFoundError, ValueError: as ``load_model`` and ``evaluate``.
    """
    rows: list[dict[str, Any]] = []
    last = load_model(nemo)
    steps = int((last.cfg.get("pretraining") or {}).get("steps", 0))
    for path in track(checkpoints_of(nemo), progress, "checkpoints"):
        model = load_model(path)
        if model.trained_steps != steps:
            rows += _rows(model.trained_steps, model, evaluate(model, utterances, progress, kmeans=False))
    return rows + list(_rows(steps, last, evaluate(last, utterances, progress)))


def _rows(step: int, model: BiRQModel, evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    for row in evaluation.rows:
        if row.labels == "layer" and row.layer != evaluation.layer:
            continue
        labels = {"layer": "nearest"}.get(row.labels, row.labels)
        if labels == "anchor" and model.teacher is not None:
            labels = "relabelled"
        found = {"step": step, "labels": labels} | ({"layer": row.layer} if row.layer else {})
        found |= {key: getattr(row.quality, key) for key in KEPT}
        if row.labels in evaluation.joint:
            found["entropy"] = float(entropy(evaluation.joint[row.labels].sum(axis=0)))
        yield {key: round(value, 5) if isinstance(value, float) else value for key, value in found.items()}
