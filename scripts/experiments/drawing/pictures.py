"""Pictures of a group, one for each question."""

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.drawing import style
from experiments.drawing.ablation_table import BASE, ENTROPY, entropy_after_ramp, first_collapse
from experiments.drawing.error_tables import RATES, scored
from experiments.drawing.records import Curve, Group, Record
from experiments.drawing.statistics import counts_of, rate_of
from nemo_birq.monitoring.metrics import MIN_ENTROPY
from nemo_birq.utils.pictures import plain

MAX_COLUMNS = 4  # of panels


@dataclass(frozen=True)
class Picture:
    """A picture that is drawn for each group."""

    name: str
    part: str
    """Part of the page that shows it."""
    title: str
    """The question that it answers; also the alternative text."""
    draw: Callable[[Group, str], Figure | None]
    """Draws it from a group and a title; None if the records have no data for it."""


def draw_errors(group: Group, title: str) -> Figure | None:
    """Draws a row for each scored setting: its seeds as dots, their mean, and its 95 % interval."""
    methods = scored(group.methods)
    if not methods:
        return None
    figure = Figure(figsize=(9, 1.7 + 0.36 * len(methods)), dpi=style.DPI, layout="constrained")
    colours = style.colours_of(group)
    for axes, rate in zip(figure.subplots(1, len(RATES), sharey=True), RATES, strict=True):
        for row, (name, records) in enumerate(methods.items()):
            counts = counts_of(records, rate)
            found = rate_of(counts)
            if found.interval is not None:
                bar = 100 * np.array(found.interval)
                axes.plot(bar, [row, row], color=colours[name], lw=2.5, alpha=0.5, solid_capstyle="butt")
            axes.plot(100 * counts.rates, np.full(len(records), row), "o", color=colours[name], ms=4, alpha=0.7, mew=0)
            axes.plot(100 * found.mean, row, "|", color=colours[name], ms=15, mew=2.5)
        axes.set(xlabel=f"{rate.upper()} in %", yticks=range(len(methods)), ylim=(len(methods) - 0.5, -0.5))
        axes.set_yticklabels(map(style.name_of, methods))
        axes.grid(axis="y", visible=False)
    figure.suptitle(title, x=0.01, ha="left")
    caption = f"dots: seeds;  | : their mean;  bars: 95 %, seeds and {counts.rows} resampled"
    figure.supxlabel(caption, fontsize=8.5, color=style.ABLATION)
    return figure


def draw_finetuning(group: Group, title: str) -> Figure | None:
    configs = (record.content["finetune_config"] for record in group.records)
    uses_cer = any(config["model"].get("use_cer") for config in configs if config is not None)
    unit = f"validation {'CER' if uses_cer else 'WER'} in %"  # both are logged as val_wer

    def curve_of(record: Record) -> Curve:
        return [(step, 100 * value) for step, value in record.finetuning_curve("val_wer")]

    return style.curves_picture(group, {"": ("-", curve_of)}, title, unit, "step of fine-tuning")


def draw_quality(group: Group, title: str) -> Figure | None:
    def pnmi(kind: str) -> style.CurveOf:
        return lambda record: [(row["step"], row["pnmi"]) for row in record.quality(kind)]

    kinds = {"own labels": ("-", pnmi("own")), "anchor labels": (":", pnmi("anchor"))}
    figure = style.curves_picture(group, kinds, title, "PNMI of the labels with the phones")
    if figure is not None:
        figure.axes[0].set_ylim(bottom=0)
    return figure


def draw_learning(group: Group, title: str) -> Figure | None:
    def gain(record: Record) -> Curve:
        for stage in ("val", "train"):
            loss, unigram = (record.curve(f"{stage}_anchor_{tag}") for tag in ("loss", "unigram_entropy"))
            if loss and unigram:
                known = dict(unigram)
                return [(step, value - known[step]) for step, value in loss if step in known]
        return []

    unit = "anchor loss − unigram entropy, nats"
    return style.curves_picture(group, {"": ("-", gain)}, title, unit, level=(0.0, "unigram predictor"))


def draw_cosine(group: Group, title: str) -> Figure | None:
    def cosine(record: Record) -> Curve:
        return record.curve("train_gradient_cosine")

    return style.curves_picture(group, {"": ("-", cosine)}, title, "cosine of the gradients", level=(0.0, "orthogonal"))


def draw_collapse(group: Group, title: str) -> Figure | None:
    """Draws a panel for each method and ablation with enhanced labels, with BiRQ beside it."""
    named = group.of("method") | group.of("ablation")
    named = {name: records for name, records in named.items() if any(_entropy(records, "train"))}
    if not named:
        return None
    base = _entropy(named.get(BASE, []), "train")
    inks = style.colours_of(group)
    columns = min(MAX_COLUMNS, len(named))
    rows = -(-len(named) // columns)
    figure = Figure(figsize=(max(5.5, 2.6 * columns + 0.6), 2.1 * rows + 1.1), dpi=style.DPI, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for place, axes in enumerate(panels):
        axes.set_visible(place < len(named))
        axes.tick_params(labelbottom=place + columns >= len(named))
    for axes, (name, records) in zip(panels, named.items(), strict=False):
        _draw_panel(axes, name, records, inks[name], [] if name == BASE else base)
    figure.supylabel("entropy / ln V", fontsize=9.5)
    beside = f"orange: {style.name_of(BASE)};  " if base and len(named) > 1 else ""
    figure.supxlabel(f"step;  dotted: validation;  {beside}dashed: collapsed below {MIN_ENTROPY}", fontsize=9.5)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def _entropy(records: list[Record], stage: str) -> list[Curve]:
    return [curve for record in records if (curve := record.curve(f"{stage}_{ENTROPY}"))]


def _draw_panel(axes: Axes, name: str, records: list[Record], colour: str, base: list[Curve]) -> None:
    if base:
        axes.plot(*zip(*style.mean_curve(base), strict=True), color=style.OF_METHOD[BASE], lw=1.5, alpha=0.7)
    style.draw_seeds(axes, _entropy(records, "train"), colour)
    if validation := _entropy(records, "val"):
        axes.plot(*zip(*style.mean_curve(validation), strict=True), color=colour, ls=":", lw=1.5)
    axes.axhline(MIN_ENTROPY, color=style.LIMIT, ls=(0, (6, 3)), lw=1)
    collapsed = any(first_collapse(entropy_after_ramp(record)) is not None for record in records)
    axes.set_title(textwrap.fill(style.name_of(name) + (": collapsed" if collapsed else ""), 30))
    axes.set_ylim(0, 1)


PICTURES = (
    Picture("errors", "errors", "Which encoder makes the better recognizer?", draw_errors),
    Picture("finetuning", "errors", "How fast is the recognizer learned?", draw_finetuning),
    Picture("quality", "labels", "Do the labels improve during training?", draw_quality),
    Picture("learning", "training", "Is the anchor task learned?", draw_learning),
    Picture("cosine", "training", "Do the gradients of the two tasks agree?", draw_cosine),
    Picture("collapse", "labels", "Do the enhanced labels collapse?", draw_collapse),
)


def draw_pictures(group: Group, folder: Path, prefix: str) -> Iterator[tuple[Picture, Path]]:
    """Writes ``<prefix>_<group>_<picture>.png`` for each picture that the records have data for."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        path = folder / f"{prefix}_{group.name}_{picture.name}.png"
        with rc_context(style.STYLE):
            figure = picture.draw(group, plain(f"{picture.title}\n{group.title}"))
            if figure is None:
                continue
            figure.savefig(path, metadata={"Software": None})  # the same bytes from the same records
        yield picture, path
