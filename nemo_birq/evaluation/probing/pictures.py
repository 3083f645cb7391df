"""The picture of a probe: error rate and loss over the layers, and the share of each in the weighted sum."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nemo_birq.evaluation.probing.evaluation import ProbeScore
from nemo_birq.evaluation.probing.representations import LOG_MEL, PRETRAINED, UNTRAINED
from nemo_birq.evaluation.probing.tasks import Task
from nemo_birq.utils import colours
from nemo_birq.utils.pictures import plain, write_picture

COLOURS = {PRETRAINED: colours.BIRQ, UNTRAINED: colours.UNTRAINED, LOG_MEL: colours.OTHER}


def draw(rows: list[ProbeScore], task: Task, title: str, path: Path) -> None:
    """Draws the picture as a PNG."""
    mixed = [row for row in rows if row.is_weighted_sum]
    columns = 2 + bool(mixed)
    figure = Figure(figsize=(5 * columns, 4.6), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)
    _draw_values(axes[0, 0], rows, "error", f"{task.metric} on the test set")
    axes[0, 0].yaxis.set_major_formatter(PercentFormatter(1.0))
    unit = "symbol" if task.name == "ctc" else "frame"
    _draw_values(axes[0, 1], rows, "loss", f"loss on the test set, nats per {unit}")
    if mixed:
        _draw_weights(axes[0, 2], mixed, [row.layer for row in rows if row.representation == PRETRAINED and row.layer])
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("encoder layer")
    figure.suptitle(plain(title))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    write_picture(figure, path)


def _draw_values(axis: Axes, rows: list[ProbeScore], value: str, label: str) -> None:
    for name in (PRETRAINED, UNTRAINED):
        singles = [row for row in rows if row.representation == name and row.layer is not None]
        if singles:
            layers, intervals = [row.layer for row in singles], [getattr(row, f"{value}_interval") for row in singles]
            axis.plot(layers, [getattr(row, value) for row in singles], "o-", color=COLOURS[name], label=name)
            axis.fill_between(layers, *zip(*intervals, strict=True), color=COLOURS[name], alpha=0.15, lw=0)
        for row in rows:
            if row.representation == name and row.is_weighted_sum:
                axis.axhline(getattr(row, value), color=COLOURS[name], ls="--", lw=1.2, label=f"{name}, weighted sum")
    for row in rows:
        if row.representation == LOG_MEL:
            axis.axhline(getattr(row, value), color=COLOURS[LOG_MEL], lw=1.5, label=LOG_MEL)
    axis.set_ylabel(plain(label))
    axis.set_title("Probe of each layer, 95 % intervals; lower is better", fontsize=10)


def _draw_weights(axis: Axes, mixed: list[ProbeScore], layers: list[int]) -> None:
    width = 0.8 / len(mixed)
    for i, row in enumerate(mixed):
        places = np.array(layers) + (i - (len(mixed) - 1) / 2) * width
        axis.bar(places, row.layer_weights, width, color=COLOURS[row.representation])
    axis.axhline(1 / len(layers), color="black", lw=0.8, ls=":")
    axis.annotate(
        "equal weights", (1, 1 / len(layers)), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
    )
    axis.set_ylabel("share in the weighted sum")
    axis.set_title("Weight of each layer in the weighted sum", fontsize=10)
