"""Picture of several encoders: each measure over the layers, a line an encoder."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nemo_birq.evaluation.encoder_comparison.measure import Measured
from nemo_birq.evaluation.encoder_comparison.table import KINDS
from nemo_birq.utils.colours import MARKERS, RUNS
from nemo_birq.utils.pictures import plain, write_picture

CHANCE = 0.5
"""Error rate of ABX by chance."""


def draw(rows: Sequence[Measured], path: Path) -> None:
    """Writes a PNG with the error rates of each layer on the test set, and of the weighted sums."""
    tasks = list(rows[0].metrics)
    kinds = [kind for kind in KINDS if any(getattr(one.test, kind).error is not None for row in rows for one in row.abx)]
    figure = Figure(figsize=(4.6 * (len(tasks) + len(kinds)), 4.6), layout="constrained")
    axes = figure.subplots(1, len(tasks) + len(kinds), squeeze=False)[0]
    for axis, kind in zip(axes, kinds, strict=False):
        _draw_abx(axis, rows, kind)
    for axis, task in zip(axes[len(kinds) :], tasks, strict=True):
        _draw_probes(axis, rows, task)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
        axis.set_xlabel("encoder layer")
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    write_picture(figure, path)


def _draw_abx(axis: Axes, rows: Sequence[Measured], kind: str) -> None:
    for number, row in enumerate(rows):
        style = _style(number)
        found = {one.layer: score for one in row.abx if (score := getattr(one.test, kind)).error is not None}
        axis.plot(list(found), [score.error for score in found.values()], **style)
        if intervals := {layer: score.interval for layer, score in found.items() if score.interval}:
            limits = zip(*intervals.values(), strict=True)
            axis.fill_between(list(intervals), *limits, color=style["color"], alpha=0.12, lw=0)
    axis.axhline(CHANCE, color="grey", lw=0.8, ls=":")
    axis.set_title(f"ABX {kind} speakers; lower is better", fontsize=10)


def _draw_probes(axis: Axes, rows: Sequence[Measured], task: str) -> None:
    for number, row in enumerate(rows):
        style = _style(number)
        singles = [one for one in row.probes[task].rows if not one.is_weighted_sum]
        layers = [one.layer for one in singles]
        axis.plot(layers, [one.error for one in singles], label=plain(row.name), **style)
        axis.fill_between(
            layers, *zip(*(one.error_interval for one in singles), strict=True), color=style["color"], alpha=0.12, lw=0
        )
        if mixed := row.weighted_sum(task):
            axis.axhline(mixed.error, color=style["color"], ls="--", lw=1)
    axis.set_title(plain(f"{rows[0].metrics[task]} of linear probes; dashed: weighted sum"), fontsize=10)


def _style(number: int) -> dict[str, str]:
    return {"color": RUNS[number % len(RUNS)], "marker": MARKERS[number % len(MARKERS)]}
