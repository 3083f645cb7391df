"""Picture of a score: WER by length and by speaker, with confidence intervals."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nemo_birq.utils.colours import OTHER, UNTRAINED
from nemo_birq.utils.pictures import plain, write_picture

GROUPS, TOTAL = OTHER, UNTRAINED  # a recognizer may be of any method, so that no colour of a method fits
FEW = 8  # most groups for which the axis shows the number of utterances
NAMED = 40  # most speakers with names on the axis


def draw_score(result: dict, title: str, path: Path) -> None:
    """Writes a PNG with the groups that the manifest defines.

    Raises:
        ValueError: the manifest defines no groups.
    """
    panels = [(key, result[key]) for key in ("lengths", "speakers") if result[key]]
    if not panels:
        raise ValueError("the manifest has neither speakers nor different durations, so there are no groups to draw")
    widths = [max(4.2, min(10.0, 1.6 + 0.33 * len(groups))) for _, groups in panels]
    figure = Figure(figsize=(sum(widths), 4.6), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths, sharey=True)[0]
    for axis, (key, groups) in zip(axes, panels, strict=True):
        _draw_groups(axis, sorted(groups, key=lambda group: group["wer"] or 0) if key == "speakers" else groups)
        axis.set_xlabel("duration" if key == "lengths" else f"speaker, {len(groups)} in total")
        low, high = (100 * edge for edge in result["wer_interval"] or (result["wer"],) * 2)
        axis.axhspan(low, high, color=TOTAL, alpha=0.25, lw=0)
        axis.axhline(100 * result["wer"], color=TOTAL, lw=1.5, zorder=1)
    axes[0].set_ylabel("WER in %, with 95 % intervals over utterances")
    axes[0].set_ylim(0, _top([group for _, groups in panels for group in groups]))
    figure.suptitle(plain(title), fontsize=11)
    axes[-1].annotate(
        f"all: {100 * result['wer']:.1f} %", (1, 100 * result["wer"]), xycoords=("axes fraction", "data"),
        xytext=(4, 0), textcoords="offset points", va="center", color=TOTAL, annotation_clip=False,
    )  # fmt: skip
    write_picture(figure, path)


def _draw_groups(axis: Axes, groups: list[dict]) -> None:
    rates = np.array([100 * (group["wer"] or 0) for group in groups])
    edges = [group["wer_interval"] or (group["wer"] or 0,) * 2 for group in groups]
    bars = np.abs(100 * np.array(edges).T - rates)
    axis.errorbar(
        range(len(groups)), rates, yerr=bars, fmt="o", ms=5, color=GROUPS, ecolor=GROUPS, capsize=3, elinewidth=1.2
    )
    few = len(groups) <= FEW
    names = [plain(f"{group['name']}\n{group['num_utterances']}" if few else group["name"]) for group in groups]
    if len(groups) <= NAMED:
        axis.set_xticks(range(len(groups)), names, rotation=0 if few else 90, fontsize=8)
    else:
        axis.set_xticks([])
    axis.margins(x=0.08)
    axis.grid(axis="y", lw=0.5, alpha=0.5)
    axis.spines[["top", "right"]].set_visible(False)


def _top(groups: list[dict]) -> float:
    return 105 * max(max((group["wer_interval"] or (0, 0))[1], group["wer"] or 0, 0.01) for group in groups)
