"""The pictures of docs/reading_the_curves.md: one healthy run and three that raise alarms, on the embedded corpus.

    python benchmarks/curves.py                 # 15 minutes on two cores; runs in curves_out/, pictures in docs/

Runs that exist in the folder are drawn without repeating them.
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from nemo_birq.monitoring.metrics import MIN_ENTROPY  # noqa: E402
from nemo_birq.utils.colours import ANCHOR, ENHANCED, UNTRAINED  # noqa: E402
from scripts.demo import scalars, start, wait  # noqa: E402

STEPS = 450
RUNS = {
    "healthy": ("A healthy run: the demo", []),
    "noise": ("Noise: logit_scale=1", ["model.birq.labels.logit_scale=1"]),
    "collapse": ("Collapse: objective=paper", ["objective=paper"]),
    "unnormalized": ("Degenerate features: preprocessor.normalize=null", ["model.preprocessor.normalize=null"]),
}
CLOSER = [
    "trainer.log_every_n_steps=25", "model.birq.watch.gradient_interval=50",
    "exp_manager.checkpoint_callback_params.save_last=false", "exp_manager.checkpoint_callback_params.save_top_k=0",
    "exp_manager.checkpoint_callback_params.save_nemo_on_train_end=false",
]  # fmt: skip
Curves = dict[str, list[tuple[int, float]]]


def record(run: Path) -> dict:
    """Returns the content of ``alarms.json``; empty if there is none yet."""
    return next((json.loads(path.read_text()) for path in run.rglob("alarms.json")), {})


def train(folder: Path) -> None:
    """Trains the runs that do not exist yet, two at a time."""
    finished = "healthy", "unhealthy", "too short to judge"
    missing = [name for name in RUNS if record(folder / name).get("status") not in finished]
    folder.mkdir(parents=True, exist_ok=True)
    for pair in (missing[:2], missing[2:]):
        logs = [folder / f"{name}.log" for name in pair]
        runs = [
            start(log, 1, "speech_pre_training.py", f"exp_manager.exp_dir={folder / name}", *CLOSER, *RUNS[name][1])
            for log, name in zip(logs, pair, strict=True)
        ]
        if runs:
            wait(" and ".join(pair), logs, runs, STEPS)


def line(axes: Axes, curves: Curves, tag: str, label: str, **style) -> None:
    if f"train_{tag}" in curves:
        axes.plot(*zip(*curves[f"train_{tag}"], strict=True), label=label, **style)


def draw(name: str, curves: Curves, alarms: list[dict], path: Path) -> None:
    """Draws losses, labels, churn and gradients of a run, with its alarms."""
    figure, ((losses, labels), (moves, gradients)) = plt.subplots(2, 2, figsize=(11.5, 6), layout="constrained", sharex=True)
    colours = {"anchor": ANCHOR, "enhanced": ENHANCED}
    for task, colour in colours.items():
        line(losses, curves, f"{task}_loss", f"{task} loss", color=colour)
        line(losses, curves, f"{task}_unigram_entropy", f"{task} unigram entropy", color=colour, ls=":")
        line(labels, curves, f"{task}_normalized_entropy", f"{task} normalized entropy", color=colour)
        line(gradients, curves, f"gradient_norm_{task}", f"{task}", color=colour, marker="o", ms=3)
    line(
        gradients,
        curves,
        "gradient_norm_enhanced_label",
        "enhanced, through the labels",
        color=ENHANCED,
        marker="o",
        ms=3,
        ls="-.",
    )
    line(labels, curves, "selection_agreement", "selection agreement (pick=nearest)", color="black")
    labels.axhline(MIN_ENTROPY, color="grey", ls="--", lw=1, label="collapsed below")
    line(moves, curves, "enhanced_churn", "churn since the last logged step", color=ENHANCED)
    line(moves, curves, "gradient_cosine", "cosine of the gradients", color="black", marker="o", ms=3)
    moves.axhline(0, color="grey", lw=0.8)
    for axes, title, unit in (
        (losses, "Losses, and the line below which learning begins", "nats"),
        (labels, "Labels", "share"),
        (moves, "Churn of the labels, and agreement of the gradients", "share, cosine"),
        (gradients, "Gradients of w1 F and w2 G on the encoder", "norm"),
    ):
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_ylabel(unit)
        axes.spines[["top", "right"]].set_visible(False)
        for alarm in alarms:
            axes.axvline(alarm["step"], color=UNTRAINED, lw=1)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    labels.set_ylim(0, 1)
    moves.set_ylim(-0.5, 1.05)
    gradients.set(yscale="log", xlabel="step")
    gradients.yaxis.set_major_formatter("{x:g}")
    gradients.yaxis.set_minor_formatter(NullFormatter())
    moves.set_xlabel("step")
    told = "; ".join(f"{alarm['name']} at step {alarm['step']}" for alarm in alarms) or "none"
    figure.suptitle(f"{name}\nalarms: {told}", fontsize=11, x=0.01, ha="left", weight="bold" if alarms else "normal")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "curves_out", help="folder for the runs (default curves_out)")
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs", help="folder for the pictures (default docs)")
    args = parser.parse_args()
    train(args.runs.resolve())
    for name, (title, _) in RUNS.items():
        run = args.runs / name
        draw(title, scalars(run), record(run)["alarms"], args.pictures / f"curves_{name}.png")


if __name__ == "__main__":
    main()
