"""Pictures of an evaluation: the phones of each code, and PNMI over the layers."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nemo_birq.evaluation.label_quality.evaluation import Evaluation
from nemo_birq.utils.colours import ANCHOR, ENHANCED, KMEANS, UNTRAINED
from nemo_birq.utils.pictures import plain, write_picture


def sorted_given_code(counts: np.ndarray) -> np.ndarray:
    """Computes p(phone | code) of the codes in use: (P, V) joint counts -> (P, codes in use).

    Columns are sorted by most likely phone, then by its probability.
    """
    used = counts[:, counts.any(axis=0)]
    given = used / used.sum(axis=0)
    return given[:, np.lexsort((-given.max(axis=0), given.argmax(axis=0)))]


def draw_phones(evaluation: Evaluation, path: Path) -> None:
    """Draws heat maps of p(phone | code) of anchor and enhanced labels, side by side."""
    frequency = evaluation.joint["enhanced"].sum(axis=1)
    order = np.argsort(-frequency, kind="stable")
    order = order[frequency[order] > 0]
    figure = Figure(figsize=(13, 6.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, row in zip(axes, evaluation.rows[:2], strict=True):
        given = sorted_given_code(evaluation.joint[row.labels][order])
        image = axis.imshow(given, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        axis.set_yticks(range(len(order)), [plain(evaluation.phones[i]) for i in order], fontsize=7)
        name = "Anchor labels" if row.layer is None else f"Enhanced labels (layer {row.layer})"
        axis.set_title(f"{name}: PNMI {row.quality.pnmi:.2f}, {row.quality.codes_used} of {row.codes} codes in use")
        axis.set_xlabel("codes in use, sorted by their most likely phone")
    axes[0].set_ylabel("phones, the most frequent on top")
    figure.colorbar(image, ax=axes, label="p(phone | code)", format=PercentFormatter(1.0), fraction=0.03, pad=0.01)
    write_picture(figure, path)


def draw_layers(evaluation: Evaluation, path: Path) -> None:
    """Draws PNMI over the layers, from which layer k is chosen."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axis = figure.subplots()
    anchor, enhanced = (row.quality for row in evaluation.rows[:2])
    axis.axhline(anchor.pnmi, color=ANCHOR, lw=1.5, label="anchor labels")
    axis.axhline(anchor.pnmi_by_chance, color=ANCHOR, ls=":")
    for labels, name, colour in (("layer", "nearest codes", ENHANCED), ("kmeans", "k-means", KMEANS)):
        rows = evaluation.of(labels)
        if rows:
            layers = [row.layer for row in rows]
            axis.plot(layers, [row.quality.pnmi for row in rows], "o-", color=colour, label=name)
            axis.plot(layers, [row.quality.pnmi_by_chance for row in rows], ":", color=colour)
    axis.axvline(evaluation.layer, color="grey", lw=1, ls="--")
    axis.annotate(
        f" the model's k = {evaluation.layer}", (evaluation.layer, 0.02), xycoords=("data", "axes fraction"), color="dimgrey"
    )
    axis.plot(evaluation.layer, enhanced.pnmi, "D", ms=10, color=ENHANCED, label="enhanced labels", zorder=3)
    axis.plot([], [], ":", color=UNTRAINED, label="the same codes\nin random order")
    highest = max(row.quality.pnmi for row in evaluation.rows)
    axis.set(xlabel="encoder layer", ylabel="PNMI", ylim=(0, min(1.0, 1.15 * highest)))
    axis.set_title(f"Agreement with phones of labels with {evaluation.rows[0].codes} codes")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    write_picture(figure, path)
