"""Tables and picture of ``birq check-labels``."""

from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

from nemo_birq.evaluation.preflight.measure import SCALES, Preflight
from nemo_birq.monitoring.metrics import HEALTHY_AGREEMENT
from nemo_birq.utils.colours import ENHANCED, UNTRAINED
from nemo_birq.utils.pictures import write_picture

NAMES = {
    "anchor": "anchor, as configured",
    "anchor, per_feature": "anchor, normalize: per_feature",
    "anchor, not normalized": "anchor, normalize: null",
    "layer k": "enhanced, initial model",
}


def label_table(result: Preflight) -> Table:
    """Returns a table of the codes that the labels use."""
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
    """Returns a table of the agreement and the effective number of codes at each ``logit_scale``."""
    table = Table(title="pick=nearest (and effective number of codes)", title_justify="left")
    for column in ("logit_scale", "this data, layer k", "random unit vectors"):
        table.add_column(column, justify="right")
    for i, scale in enumerate(SCALES):
        cells = [
            f"{s.agreement[i]:.3f} ({s.codes[i]:.0f})" for s in (result.selection["layer k"], result.selection["random"])
        ]
        table.add_row(f"{scale:g}", *cells, style="bold" if scale == result.logit_scale else None)
    return table


def draw(result: Preflight, path: Path) -> None:
    """Draws the selection over ``logit_scale`` as a PNG, with the healthy range and, outside of it, the suggestion."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    agreement, codes = figure.subplots(1, 2)
    curves = {
        "random": ("random unit vectors", {"color": UNTRAINED, "lw": 4, "alpha": 0.5}),
        "layer k": ("this data, layer k", {"color": ENHANCED, "marker": "o"}),
    }
    for key, (label, style) in curves.items():
        agreement.plot(SCALES, result.selection[key].agreement, ms=3, label=label, **style)
        codes.plot(SCALES, result.selection[key].codes, ms=3, label=label, **style)
    low, high = HEALTHY_AGREEMENT
    agreement.axhspan(low, high, color=UNTRAINED, alpha=0.15, lw=0, label=f"healthy: {low:.0%} to {high:.0%}")
    for axes in (agreement, codes):
        axes.axvline(result.logit_scale, color="black", lw=1, label=f"configured: {result.logit_scale:g}")
        if not is_healthy(result):
            axes.axvline(suggestion(result), color="black", lw=1, ls="--", label=f"suggested: {suggestion(result):g}")
        axes.set(xscale="log", xlabel="logit_scale")
        axes.set_xticks((1, 10, 100), ("1", "10", "100"))
        axes.spines[["top", "right"]].set_visible(False)
    agreement.set(ylim=(0, 1), ylabel="share of frames", title="Frames for which Gumbel-softmax picks the nearest code")
    codes.set(yscale="log", ylabel="codes", title="Effective number of codes of a label")
    figure.legend(*agreement.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    write_picture(figure, path)


def stability_line(result: Preflight) -> str:
    return f"{result.stability:.1%} of the anchor labels are equal between two draws of the dither."


def length_lines(result: Preflight) -> list[str]:
    """Returns the limits of length that leave out an acceptable share; other limits are among the failures."""
    return [entry.in_words("model.train_ds.") for entry in result.left_out if not entry.is_too_much]


def is_healthy(result: Preflight) -> bool:
    """Tests if the agreement at the configured ``logit_scale`` is in the range of healthy runs."""
    low, high = HEALTHY_AGREEMENT
    return low <= result.selection["layer k"].at(result.logit_scale) <= high


def suggestion(result: Preflight) -> float:
    """Returns the ``logit_scale`` with the agreement ``model.birq.labels.nearest_share``."""
    return result.selection["layer k"].suggestion(result.nearest_share)


def suggestion_line(result: Preflight) -> str:
    """Returns a line that keeps the configured ``logit_scale`` or suggests another."""
    here = f"logit_scale={result.logit_scale:g} picks the nearest code in "
    here += f"{result.selection['layer k'].at(result.logit_scale):.0%} of the frames"
    low, high = HEALTHY_AGREEMENT
    if is_healthy(result):
        return f"{here}. {low:.0%} to {high:.0%} is healthy: keep it."
    return (
        f"{here}. {low:.0%} to {high:.0%} is healthy: set model.birq.labels.logit_scale={suggestion(result):g}, which picks "
        f"it in {result.nearest_share:.0%}."
    )
