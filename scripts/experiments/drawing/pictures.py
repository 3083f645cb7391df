"""One picture for each question."""

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.drawing import style
from experiments.drawing.ablation_table import BASE, ENTROPY, entropy_after_ramp, first_collapse
from experiments.drawing.error_tables import RATES, scored
from experiments.drawing.runs import Curve, Group, Run
from experiments.drawing.statistics import counts_of, rate_of
from nemo_birq.monitoring.metrics import LEAST_ENTROPY


@dataclass(frozen=True)
class Picture:
    """What is drawn for a group."""

    name: str
    part: str
    """Of docs/results.md that it stands in."""
    title: str
    """The question, which is the alternative text too."""
    draw: Callable[[Group, str], Figure | None]
    """From a group and a title; None where its runs know nothing of it."""


def draw_errors(group: Group, title: str) -> Figure | None:
    """A row for each setting that was scored: seeds as dots, their mean, and its 95 % interval."""
    methods = scored(group.methods)
    if not methods:
        return None
    figure = Figure(figsize=(9, 1.7 + 0.36 * len(methods)), dpi=style.DPI, layout="constrained")
    colours = style.colours_of(group)
    for axes, rate in zip(figure.subplots(1, len(RATES), sharey=True), RATES, strict=True):
        for row, (name, runs) in enumerate(methods.items()):
            counts = counts_of(runs, rate)
            found = rate_of(counts)
            if found.interval is not None:
                axes.plot(
                    100 * np.array(found.interval), [row, row], color=colours[name], lw=2.5, alpha=0.5, solid_capstyle="butt"
                )
            axes.plot(100 * counts.rates, np.full(len(runs), row), "o", color=colours[name], ms=4, alpha=0.7, mew=0)
            axes.plot(100 * found.mean, row, "|", color=colours[name], ms=15, mew=2.5)
        axes.set(xlabel=f"{rate.upper()} in %", yticks=range(len(methods)), ylim=(len(methods) - 0.5, -0.5))
        axes.set_yticklabels(methods)
        axes.grid(axis="y", visible=False)
    figure.suptitle(title, x=0.01, ha="left")
    told = f"dots: seeds;  | : their mean;  bars: 95 %, seeds and {counts.rows} drawn again"
    figure.supxlabel(told, fontsize=8.5, color=style.ABLATION)
    return figure


def draw_finetuning(group: Group, title: str) -> Figure | None:
    rate = "CER" if any(_find(run.content["finetune_config"], "use_cer") for run in group.runs) else "WER"  # both: val_wer

    def curve_of(run: Run) -> Curve:
        return [(step, 100 * value) for step, value in run.finetuning_curve("val_wer")]

    unit = f"validation {rate} in %"
    return style.curves_picture(group, {"": ("-", curve_of)}, title, unit, "step of fine-tuning")


def draw_quality(group: Group, title: str) -> Figure | None:
    def pnmi(kind: str) -> style.CurveOf:
        return lambda run: [(row["step"], row["pnmi"]) for row in run.quality(kind)]

    kinds = {"own labels": ("-", pnmi("own")), "anchor labels": (":", pnmi("anchor"))}
    figure = style.curves_picture(group, kinds, title, "PNMI of the labels with the phones")
    if figure is not None:
        figure.axes[0].set_ylim(bottom=0)
    return figure


def draw_learning(group: Group, title: str) -> Figure | None:
    def gain(run: Run) -> Curve:
        for stage in ("val", "train"):
            loss, unigram = (run.curve(f"{stage}_anchor_{tag}") for tag in ("loss", "unigram_entropy"))
            if loss and unigram:
                known = dict(unigram)
                return [(step, value - known[step]) for step, value in loss if step in known]
        return []

    unit = "anchor loss − unigram entropy, nats"
    return style.curves_picture(group, {"": ("-", gain)}, title, unit, level=(0.0, "knows only how\nfrequent codes are"))


def draw_cosine(group: Group, title: str) -> Figure | None:
    def cosine(run: Run) -> Curve:
        return run.curve("train_gradient_cosine")

    return style.curves_picture(group, {"": ("-", cosine)}, title, "cosine of the gradients", level=(0.0, "at right angles"))


COLUMNS = 4


def draw_alive(group: Group, title: str) -> Figure | None:
    """A panel for each method and ablation with enhanced labels, with BiRQ behind it."""
    named = group.of("method") | group.of("ablation")
    named = {name: runs for name, runs in named.items() if any(_entropy(runs, "train"))}
    if not named:
        return None
    behind = _entropy(named.get(BASE, []), "train")
    columns = min(COLUMNS, len(named))
    rows = -(-len(named) // columns)
    figure = Figure(figsize=(max(5.5, 2.6 * columns + 0.6), 2.1 * rows + 1.1), dpi=style.DPI, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for place, axes in enumerate(panels):
        axes.set_visible(place < len(named))
        axes.tick_params(labelbottom=place + columns >= len(named))
    for axes, (name, runs) in zip(panels, named.items(), strict=False):
        _draw_panel(axes, name, runs, [] if name == BASE else behind)
    figure.supylabel("entropy / ln V", fontsize=9.5)
    grey = f"grey: {BASE};  " if behind and len(named) > 1 else ""
    figure.supxlabel(f"step;  dotted: validation;  {grey}red: below {LEAST_ENTROPY}", fontsize=9.5)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def _entropy(runs: list[Run], stage: str) -> list[Curve]:
    return [curve for run in runs if (curve := run.curve(f"{stage}_{ENTROPY}"))]


def _draw_panel(axes: Axes, name: str, runs: list[Run], behind: list[Curve]) -> None:
    if behind:
        axes.plot(*zip(*style.mean_curve(behind), strict=True), color="#b1bac4", lw=2)
    fallen = any(first_collapse(entropy_after_ramp(run)) is not None for run in runs)
    colour = style.LIMIT if fallen else style.OF_METHOD[BASE]
    style.draw_seeds(axes, _entropy(runs, "train"), colour)
    if validation := _entropy(runs, "val"):
        axes.plot(*zip(*style.mean_curve(validation), strict=True), color=colour, ls=":", lw=1.5)
    axes.axhline(LEAST_ENTROPY, color=style.LIMIT, ls=(0, (6, 3)), lw=1)
    axes.set_title(textwrap.fill(name, 30), color=style.LIMIT if fallen else "black")
    axes.set_ylim(0, 1)


def _find(config: Any, key: str) -> Any:
    """The first value of a key, at any depth; None where there is none."""
    if not isinstance(config, dict):
        return None
    if key in config:
        return config[key]
    return next((found for inner in config.values() if (found := _find(inner, key)) is not None), None)


PICTURES = (
    Picture("errors", "errors", "Which encoder makes the better recognizer?", draw_errors),
    Picture("finetuning", "errors", "How fast is the recognizer learned?", draw_finetuning),
    Picture("quality", "labels", "Do the labels get better while training?", draw_quality),
    Picture("learning", "training", "Is the anchor task learned?", draw_learning),
    Picture("cosine", "training", "Do the two tasks pull the same way?", draw_cosine),
    Picture("alive", "ablations", "Do the enhanced labels stay alive?", draw_alive),
)


def draw_pictures(group: Group, folder: Path) -> Iterator[tuple[Picture, Path]]:
    """Writes those that the group's runs have numbers for."""
    for picture in PICTURES:
        path = folder / f"results_{group.name}_{picture.name}.png"
        with style.styled():
            figure = picture.draw(group, f"{picture.title}\n{group.budget}, {group.corpus}")
            if figure is not None:
                style.save(figure, path)
        if figure is not None:
            yield picture, path
