"""Pictures of the documentation that are drawn again from their records in docs/results/, without a model.

    python -m benchmarks.redraw                     # all of PICTURES, to docs/pictures/
    python -m benchmarks.redraw --out /tmp/pictures

benchmarks/curves.py, benchmarks/step_picture.py and scripts/draw_results.py draw the other pictures.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from matplotlib.figure import Figure

from nemo_birq.evaluation.label_quality.evaluation import Evaluation, LabelSetScore
from nemo_birq.evaluation.label_quality.pictures import draw_layers
from nemo_birq.evaluation.label_quality.pnmi import Quality
from nemo_birq.evaluation.probing.evaluation import ProbeScore
from nemo_birq.evaluation.probing.pictures import draw
from nemo_birq.scoring.pictures import draw_score
from nemo_birq.utils.colours import BIRQ, MARKERS, OTHER, SCRATCH
from nemo_birq.utils.pictures import write_picture

DOCS = Path(__file__).resolve().parents[1] / "docs"
EMBEDDED = "embedded corpus, phones of frames"
FINETUNING = {
    "BiRQ encoder": BIRQ, "from scratch, same learning rates": SCRATCH, "from scratch, higher learning rate": OTHER,
}  # fmt: skip
"""Colours of the runs in finetuning.json."""


def read(name: str) -> dict:
    return json.loads((DOCS / "results" / name).read_text())


def probe_frames(path: Path) -> None:
    """Draws the probe of phones of docs/measurements.md."""
    found = read("probing.json")[EMBEDDED]
    rows = [ProbeScore(**row) for row in found["rows"]]
    task = SimpleNamespace(name=found["task"], metric=found["metric"])
    draw(rows, task, f"{found['model']}: what a linear classifier reads from it", path)


def finetuning(path: Path) -> None:
    """Draws error rates and losses of the fine-tuning runs of docs/measurements.md on the validation set."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    runs = read("finetuning.json")["runs"]
    for run, marker in zip(runs, MARKERS, strict=False):
        for panel, key in zip(panels, ("validation_cer", "validation_loss"), strict=True):
            steps, values = np.transpose(run[key])
            panel.plot(steps, values, color=FINETUNING[run["run"]], marker=marker, ms=5, lw=1.5, label=run["run"])
    for panel, unit in zip(panels, ("character error rate, greedy decoding", "CTC loss, nats"), strict=True):
        panel.set(xlabel="step", ylabel=unit)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylim(0, 1.05)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle("Validation set; fine-tuning on 2.28 hours of real speech, 1.7 M parameters", fontsize=11)
    write_picture(figure, path)


def label_quality_layers(path: Path) -> None:
    """Draws PNMI over the layers of the demo's model, the example of docs/label_quality.md."""
    found = read("label_quality.json")
    rows = []
    for row in found["rows"]:
        quality = Quality(**{key: row[key] for key in Quality._fields})
        rows.append(LabelSetScore(row["labels"], row["layer"], row["codes"], quality))
    draw_layers(Evaluation(rows, [], {}, found["layer"], found["phone_entropy"], 0, 0.0), path)


def score(path: Path) -> None:
    """Draws the WER by duration and speaker of a recognizer, the picture of docs/scoring.md."""
    found = read("score.json")
    draw_score(found, found["title"], path)


PICTURES: dict[str, Callable[[Path], None]] = {
    "probe_frames.png": probe_frames, "finetuning.png": finetuning, "label_quality_layers.png": label_quality_layers,
    "score.png": score,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DOCS / "pictures", help="folder of the pictures (default docs/pictures)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, draw_picture in PICTURES.items():
        draw_picture(args.out / name)
        print(args.out / name)


if __name__ == "__main__":
    main()
