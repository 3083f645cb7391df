"""The gate before training as a table and as a picture."""

from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

from nemo_birq.evaluation.preflight.measure import SCALES, Preflight
from nemo_birq.utils.pictures import write_picture

NAMES = {
    "anchor": "anchor, as configured",
    "anchor, per_feature": "anchor, normalize: per_feature",
    "anchor, not normalized": "anchor, normalize: null",
    "layer k": "enhanced, initial model",
}


def label_table(result: Preflight) -> Table:
    """How the labels use the codebook."""
    table = Table(
        title=f"Labels of {result.minutes:.1f} minutes, {result.frames} frames: {result.masked_fraction:.0%} masked, "
        f"{result.silent_share:.0%} of the utterances silent, {result.skipped} ({result.skipped_share:.0%}) not readable",
        title_justify="left",
    )
    for column in ("", "normalized entropy", "perplexity", "most frequent", "coverage"):
        table.add_column(column, justify="right" if column else "left")
    for key, use in result.labels.items():
        table.add_row(
            NAMES[key], f"{use.normalized_entropy:.2f}", f"{use.perplexity:.0f}", f"{use.top1:.1%}", f"{use.coverage:.1%}"
        )
    return table


def selection_table(result: Preflight) -> Table:
    """What Gumbel-softmax picks at each ``logit_scale``."""
    table = Table(title="pick=nearest (and how many codes share the mass)", title_justify="left")
    for column in ("logit_scale", "this data, layer k", "random unit vectors"):
        table.add_column(column, justify="right")
    for i, scale in enumerate(SCALES):
        cells = [
            f"{s.agreement[i]:.3f} ({s.codes[i]:.0f})" for s in (result.selection["layer k"], result.selection["random"])
        ]
        table.add_row(f"{scale:g}", *cells, style="bold" if scale == result.logit_scale else None)
    return table


def draw(result: Preflight, path: Path) -> None:
    """Curves of the selection over ``logit_scale``, as a PNG."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    agreement, codes = figure.subplots(1, 2)
    curves = {
        "random": ("random unit vectors", {"color": "lightgrey", "lw": 5}),
        "layer k": ("this data, layer k", {"marker": "o"}),
    }
    for key, (label, style) in curves.items():
        agreement.plot(SCALES, result.selection[key].agreement, ms=3, label=label, **style)
        codes.plot(SCALES, result.selection[key].codes, ms=3, label=label, **style)
    agreement.axhspan(0.5, 0.7, color="tab:green", alpha=0.12, label="wanted")
    suggested = result.selection["layer k"].suggestion(result.nearest_share)
    for axes in (agreement, codes):
        axes.axvline(result.logit_scale, color="black", lw=1, label=f"configured: {result.logit_scale:g}")
        axes.axvline(suggested, color="tab:green", lw=1, ls="--", label=f"suggested: {suggested:g}")
        axes.set(xscale="log", xlabel="logit_scale")
        axes.spines[["top", "right"]].set_visible(False)
    agreement.set(ylim=(0, 1), ylabel="share of frames", title="How often Gumbel-softmax picks the nearest code")
    codes.set(yscale="log", ylabel="codes", title="How many codes share the mass of a label")
    figure.legend(*agreement.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    write_picture(figure, path)


def stability_line(result: Preflight) -> str:
    return f"{result.stability:.1%} of the anchor labels are equal between two draws of the dither."


def length_lines(result: Preflight) -> list[str]:
    """Says the data that limits of length leave out where it is not too much; the rest is among the failures."""
    return [entry.in_words("model.train_ds.") for entry in result.left_out if not entry.is_too_much]


def suggestion_line(result: Preflight) -> str:
    """The suggestion in words."""
    here = result.selection["layer k"]
    return (
        f"logit_scale={result.logit_scale:g} picks the nearest code in {here.at(result.logit_scale):.0%} of the frames; "
        f"model.birq.labels.logit_scale={here.suggestion(result.nearest_share):g} would in {result.nearest_share:.0%}."
    )
