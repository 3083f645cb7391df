"""Common style of all pictures: colours of the methods, thin lines for seeds and a thick one for their mean."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from experiments.drawing.records import NAMES, Curve, Group, Record
from nemo_birq.utils import colours
from nemo_birq.utils.pictures import plain

DPI = 110
OF_METHOD = {
    "scratch": colours.SCRATCH, "best_rq": colours.BEST_RQ, "relabelled": colours.RELABELLED, "birq": colours.BIRQ,
    "birq_layer_1": colours.FIRST_LAYER, "birq_tracked": colours.TRACKED, "best_rq_refined": colours.FITTED,
    "refined_tracked": colours.FITTED_TRACKED, "best_rq_refined_1": colours.OTHER,
}  # fmt: skip
ABLATION = "#57606a"
LIMIT = colours.UNTRAINED
STYLE = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#e4e8ec", "axes.edgecolor": "#8b949e", "axes.titlelocation": "left", "axes.titlesize": 10,
    "font.size": 9.5, "legend.frameon": False, "figure.titlesize": 12, "figure.titleweight": "bold",
}  # fmt: skip

CurveOf = Callable[[Record], Curve]


def colours_of(group: Group) -> dict[str, str]:
    """Returns a colour for each method, the same in all pictures of a group, and one colour for all ablations.

    The methods of ``OF_METHOD`` have the same colour in all groups.
    """
    methods = group.of("method")
    free = [colour for colour in colours.PALETTE if colour not in {OF_METHOD.get(name) for name in methods}]
    others = [name for name in methods if name not in OF_METHOD]
    found = {name: free[i % len(free)] for i, name in enumerate(others)}
    return dict.fromkeys(group.methods, ABLATION) | OF_METHOD | found


def name_of(setting: str) -> str:
    """Returns the name of a method or an ablation in a picture."""
    return plain(NAMES.get(setting, setting.replace("_", " ")))


def mean_curve(curves: list[Curve]) -> Curve:
    """Returns the mean over seeds where all of them have values; curves are linear between logged steps."""
    steps = sorted({step for curve in curves for step, _ in curve})
    first, last = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
    steps = [step for step in steps if first <= step <= last]
    return list(zip(steps, np.mean([np.interp(steps, *zip(*curve, strict=True)) for curve in curves], axis=0), strict=True))


def draw_seeds(axes: Axes, curves: list[Curve], colour: str, style: str = "-") -> None:
    """Draws a thin line for each seed and a thick one for the mean; with markers if there are few points."""
    for curve in curves if len(curves) > 1 else []:
        axes.plot(*zip(*curve, strict=True), color=colour, ls=style, lw=0.7, alpha=0.45)
    mean = mean_curve(curves)
    if mean:
        marker = {"marker": "o", "ms": 3} if len(mean) < 12 and style == "-" else {}
        axes.plot(*zip(*mean, strict=True), color=colour, ls=style, lw=2, **marker)


def curves_picture(
    group: Group, kinds: dict[str, tuple[str, CurveOf]], title: str, unit: str, x: str = "step",
    level: tuple[float, str] | None = None,
) -> Figure | None:  # fmt: skip
    """Draws curves of all methods, without ablations, in one picture; None if there are none.

    Args:
        group: a group of records.
        kinds: for each entry of the legend, a style of line and a function that returns the curve of a record.
        title: title of the picture.
        unit: label of the vertical axis.
        x: label of the horizontal axis.
        level: a value to mark, and its label.
    """
    inks = colours_of(group)
    found = {
        (name, kind): curves
        for name, records in group.of("method").items()
        for kind, (_, curve_of) in kinds.items()
        if (curves := [curve for record in records if (curve := curve_of(record))])
    }
    if not found:
        return None
    figure = Figure(figsize=(8, 4), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for (name, kind), curves in found.items():
        draw_seeds(axes, curves, inks[name], kinds[kind][0])
    names = dict.fromkeys(name for name, _ in found)
    handles = [Line2D([], [], color=inks[name], lw=3, label=name_of(name)) for name in names]
    if len(kinds) > 1:
        handles += [Line2D([], [], color=ABLATION, ls=style, label=kind) for kind, (style, _) in kinds.items()]
    if level is not None:
        handles.append(axes.axhline(level[0], color=LIMIT, ls=(0, (6, 3)), lw=1, label=level[1]))
    axes.set(xlabel=x, ylabel=unit)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    figure.legend(handles=handles, loc="outside right upper")
    figure.suptitle(title, x=0.01, ha="left")
    return figure
