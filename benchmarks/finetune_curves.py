"""The picture of docs/finetuning.md: error rates and losses of several fine-tuning runs over their steps.

    python benchmarks/finetune_curves.py "pretrained=runs/birq" "scratch=runs/scratch" --out docs/pictures/finetuning.png

Each run is a folder with TensorBoard events, of scripts/speech_to_text_finetune.py with +model.use_cer=true (NeMo then logs
the character error rate under the name val_wer).
"""

import argparse
from itertools import cycle
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from nemo_birq.report.events import scalars
from nemo_birq.utils.colours import RUNS

PANELS = (("val_wer", "Validation, greedy decoding", "character error rate"), ("val_loss", "Validation", "CTC loss, nats"),
          ("train_loss", "Training", "CTC loss, nats"))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="title=folder")
    parser.add_argument("--title", default="")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    figure, axes = plt.subplots(1, len(PANELS), figsize=(12, 3.8), layout="constrained")
    for run, colour in zip(args.runs, cycle(RUNS)):
        title, _, folder = run.partition("=")
        logged = scalars(Path(folder))
        for panel, (tag, _, _) in zip(axes, PANELS, strict=True):
            values = logged[tag]
            panel.plot(
                *zip(*values, strict=True), label=title, color=colour, marker="o" if len(values) < 40 else None, ms=3, lw=1.3
            )
    for panel, (_, title, unit) in zip(axes, PANELS, strict=True):
        panel.set_title(title, fontsize=10, loc="left")
        panel.set(xlabel="step", ylabel=unit)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(0, 1.05)
    axes[2].set_yscale("log")  # a new head on a frozen encoder begins with losses ten times as high
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(args.runs), frameon=False, fontsize=9
    )
    figure.suptitle(args.title, fontsize=11, x=0.01, ha="left")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=90)


if __name__ == "__main__":
    main()
