"""What all pictures share: colours of the methods, thin lines for seeds and a thick one for their mean."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from experiments.drawing.runs import Curve, Group, Run
from nemo_birq.report.pictures import COLOURS

DPI = 110
OF_METHOD = {
    "scratch": COLOURS[7], "best_rq": COLOURS[0], "relabelled": COLOURS[2], "birq": COLOURS[1], "birq_tracked": COLOURS[3],
}  # fmt: skip
ABLATION = "#57606a"
OTHERS = [colour for colour in COLOURS if colour not in OF_METHOD.values()]
LIMIT = "#d1495b"
STYLE = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#e4e8ec", "axes.edgecolor": "#8b949e", "axes.titlelocation": "left", "axes.titlesize": 10,
    "font.size": 9.5, "legend.frameon": False, "figure.titlesize": 12, "figure.titleweight": "bold",
}  # fmt: skip

CurveOf = Callable[[Run], Curve]


def colours_of(group: Group) -> dict[str, str]:
    """The same colour for a method in all pictures of a group, for some in those of all groups; one for all ablations."""
    others = [name for name in group.of("method") if name not in OF_METHOD]
    found = {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(others)}
    return dict.fromkeys(group.methods, ABLATION) | OF_METHOD | found


@contextmanager
def styled() -> Iterator[None]:
    with rc_context(STYLE):
        yield


def mean_curve(curves: list[Curve]) -> Curve:
    """Mean over seeds where all of them have values; between logged steps a curve is a straight line."""
    steps = sorted({step for curve in curves for step, _ in curve})
    first, last = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
    steps = [step for step in steps if first <= step <= last]
    return list(zip(steps, np.mean([np.interp(steps, *zip(*curve, strict=True)) for curve in curves], axis=0), strict=True))


def draw_seeds(axes: Axes, curves: list[Curve], colour: str, style: str = "-") -> None:
    """A thin line for each seed, a thick one for the mean; markers where there are few points."""
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
    """Curves of all methods, without ablations, in one picture; None if there are none.

    Args:
        group: of runs.
        kinds: by the word for the legend, a style of line and where the curve comes from.
        title: the question.
        unit: of the vertical axis.
        x: name of the horizontal axis.
        level: a value to mark, and what it means.
    """
    colours = colours_of(group)
    found = {
        (name, kind): curves
        for name, runs in group.of("method").items()
        for kind, (_, curve_of) in kinds.items()
        if (curves := [curve for run in runs if (curve := curve_of(run))])
    }
    if not found:
        return None
    figure = Figure(figsize=(8, 4), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for (name, kind), curves in found.items():
        draw_seeds(axes, curves, colours[name], kinds[kind][0])
    handles = [Line2D([], [], color=colours[name], lw=3, label=name) for name in dict.fromkeys(name for name, _ in found)]
    if len(kinds) > 1:
        handles += [Line2D([], [], color="#57606a", ls=style, label=kind) for kind, (style, _) in kinds.items()]
    if level is not None:
        handles.append(axes.axhline(level[0], color=LIMIT, ls=(0, (6, 3)), lw=1, label=level[1]))
    axes.set(xlabel=x, ylabel=unit)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    figure.legend(handles=handles, loc="outside right upper")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})  # the same bytes from the same runs
