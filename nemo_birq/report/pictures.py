"""Draws the curves of all runs. Each picture has a light and a dark version."""

import io
import math
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

from nemo_birq.report.catalogue import Line, Picture
from nemo_birq.report.events import Point
from nemo_birq.report.experiment_folder import TrainingRun
from nemo_birq.utils.colours import MARKERS, PALETTE, RUNS, UNTRAINED
from nemo_birq.utils.pictures import plain

THEMES = {"light": ("#ffffff", "#24292f", "#d8dee4"), "dark": ("#161b22", "#e6edf3", "#30363d")}
"""Colours of background, text and grid."""
QUIET = UNTRAINED
"""Colour of elements that belong to no run: kinds of lines, levels and marks."""
WIDTH = 45
"""Most characters in a line of a title or of a run's name."""
MARKS = 7
"""Largest number of markers on the curve of a run."""
SHADES = (1.0, 0.75, 0.5, 0.25)
"""Shares of a colour over the background at the edges of lines and letters in a PNG."""


@dataclass(frozen=True)
class Drawn:
    """A picture as PNG for both themes, with its alternative text."""

    name: str
    title: str
    alt: str
    light: bytes
    dark: bytes


Drawing = tuple[int, TrainingRun, Line, list[Point]]
"""A curve to draw, with its run and the number of the run."""


def colour(index: int) -> str:
    """Returns the colour of the run at this position."""
    return RUNS[index % len(RUNS)]


def points_of(run: TrainingRun, line: Line) -> list[Point]:
    """Returns the curve of a run, empty if it was not logged."""
    return run.curves.get(line.tag) or run.curves.get(line.instead or "", [])


def is_zero(picture: Picture, runs: list[TrainingRun]) -> bool:
    """Tests if a picture was logged and has only zeros."""
    values = [point.value for run in runs for line in picture.lines for point in points_of(run, line)]
    return bool(values) and not any(values)


def draw(picture: Picture, runs: list[TrainingRun]) -> Drawn | None:
    """Draws the curves of a picture, over the steps of the longest run. Returns None if no run logged any.

    Kinds of lines that are 0 in all runs are left out.
    """
    lines = [line for line in picture.lines if any(point.value for run in runs for point in points_of(run, line))]
    curves = [(i, run, line, p) for i, run in enumerate(runs) for line in lines if (p := points_of(run, line))]
    if not curves:
        return None
    last = max(*(run.steps - 1 for run in runs), *(points[-1].step for *_, points in curves))

    def paint(axes: Axes) -> list[list[Line2D]]:
        for index, _, line, points in curves:
            axes.plot([p.step for p in points], [p.value for p in points], **_style(index, line, len(points), len(runs)))
        for level in picture.levels.values():
            axes.axhline(level, **LEVEL)
        begins = mark_beginnings(axes, runs, last)
        axes.set(xlabel="step", ylabel=picture.unit, xlim=(-0.02 * last, 1.02 * last) if last else None)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if picture.log and all(p.value > 0 for *_, points in curves for p in points):
            set_log_axis(axes)
        return _legend(picture, curves, runs, begins)

    return Drawn(
        picture.name, picture.title, _alt(picture, curves), *(draw_png(picture.title, paint, theme) for theme in THEMES)
    )


LEVEL = {"color": QUIET, "ls": (0, (6, 3)), "lw": 1.2}
BEGIN = {"ls": (0, (1, 2)), "lw": 1.4}


def _style(index: int, line: Line, num_points: int, num_runs: int) -> dict[str, Any]:
    """Returns the style of a curve, with the colour of its run, or of its task if there is only one run."""
    alone = num_runs == 1
    found = {"color": (line.colour or rcParams["text.color"]) if alone else colour(index)}
    found |= {"ls": "-" if line.style == "o" else line.style, "lw": 0.9 if line.style == "o" else 1.6}
    if line.style == "o" or (alone and line.style == "-" and num_points < 8):
        found |= {"marker": "o", "markersize": 3.5}
    elif not alone and line.style == "-":
        found |= {"marker": MARKERS[index], "markersize": 4.5, "markevery": math.ceil(num_points / MARKS)}
    return found


def mark_beginnings(axes: Axes, runs: list[TrainingRun], last: int) -> bool:
    """Marks the steps at which the enhanced loss begins to count, and returns True if there is such a mark."""
    begins = {run.name: begin for run in runs if (begin := run.enhanced_begins) is not None and 0 < begin <= last}
    same = len(set(begins.values())) == 1
    for index, run in enumerate(runs):
        if run.name in begins:
            axes.axvline(begins[run.name], color=QUIET if same else colour(index), **BEGIN)
    return bool(begins)


def set_log_axis(axes: Axes) -> None:
    """Makes the y axis logarithmic, with plain numbers at 1, 2 and 5 of each power of ten, or at powers of ten only."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0,) if decades > 3 else (1.0, 2.0, 5.0)))
    if decades < 0.5:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _legend(picture: Picture, curves: list[Drawing], runs: list[TrainingRun], begins: bool) -> list[list[Line2D]]:
    """Returns the entries of the legend: runs in the first row, kinds of lines in the second."""
    shown = sorted({index for index, *_ in curves})
    handles: list[Line2D] = []
    lines = [line for line in picture.lines if any(line == drawn for _, _, drawn, _ in curves)]
    if len(lines) > 1 or picture.lines[0] not in lines:
        for line in lines:
            marked = {"marker": "o", "markersize": 3.5, "ls": "-", "lw": 0.9} if line.style == "o" else {"ls": line.style}
            ink = QUIET if len(runs) > 1 else line.colour or rcParams["text.color"]
            handles.append(Line2D([], [], color=ink, label=plain(line.label), **marked))
    for word, level in picture.levels.items():
        handles.append(Line2D([], [], label=f"{word} {level:g}" if level else word, **LEVEL))
    if begins:
        handles.append(Line2D([], [], color=QUIET, label="enhanced loss begins", ls="none", marker="|", markersize=11))
    return [name_entries(runs, shown), handles]


def name_entries(runs: list[TrainingRun], shown: list[int]) -> list[Line2D]:
    """Returns the entries of the shown runs, with long names broken into lines; none for a single run."""
    if len(runs) == 1:
        return []
    return [
        Line2D([], [], color=colour(i), lw=2, marker=MARKERS[i], label=plain(textwrap.fill(runs[i].name, WIDTH)))
        for i in shown
    ]


def _alt(picture: Picture, curves: list[Drawing]) -> str:
    def at(point: Point) -> str:
        return f"{point.value:.3g} at step {point.step}"

    said = [f"{run.name}, {line.label}: {at(points[0])}, {at(points[-1])}" for _, run, line, points in curves]
    return f"{picture.title} over steps. {'; '.join(said)}."


@contextmanager
def _theme(name: str) -> Iterator[None]:
    ground, ink, grid = THEMES[name]
    inks = dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), ink)
    grounds = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), ground)
    shape = {
        "axes.edgecolor": grid, "grid.color": grid, "grid.linewidth": 0.7, "axes.grid": True, "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False, "font.size": 10.5, "axes.titlesize": 11.5,
        "axes.titleweight": "bold", "axes.titlelocation": "left", "legend.frameon": False, "legend.fontsize": 10,
    }  # fmt: skip
    with rc_context(inks | grounds | shape):
        yield


def draw_png(title: str, paint: Callable[[Axes], list[list[Line2D]]], theme: str) -> bytes:
    """Draws a picture as PNG.

    Args:
        title: text above it.
        paint: draws on the axes, and returns the rows of the legend.
        theme: ``light`` or ``dark``.
    """
    with _theme(theme):
        figure = Figure(figsize=(5.2, 3.2), dpi=156, layout="constrained")
        axes = figure.add_subplot()
        rows = [row for row in paint(axes) if row]
        axes.set_title(plain(textwrap.fill(title, WIDTH)))
        if rows:
            figure.set_figheight(3.2 + _add_legend(figure, rows))
        drawn, buffer = io.BytesIO(), io.BytesIO()
        figure.savefig(drawn, format="png")
    few = Image.open(drawn).convert("RGB").quantize(palette=_few_colours(theme), dither=Image.Dither.NONE)
    few.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@cache
def _few_colours(theme: str) -> Image.Image:
    """Returns the palette of the PNG files, all colours and their shades, which saves two thirds of the bytes."""
    ground, *inks = (np.array(to_rgb(colour)) for colour in (*THEMES[theme], *PALETTE))
    found = [ground, *(share * ink + (1 - share) * ground for ink in inks for share in SHADES)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([round(255 * part) for colour in found for part in colour])
    return palette


def _add_legend(figure: Figure, rows: list[list[Line2D]]) -> float:
    """Adds a legend below the axes, whose rows are broken to fit into the figure. Returns its height in inches."""
    width = max(map(len, rows))
    for parts in range(1, width + 1):
        columns = -(-width // parts)
        broken = [row[i : i + columns] for row in rows for i in range(0, len(row), columns)]
        legend = figure.legend(handles=_by_columns(broken, columns), loc="outside lower center", ncols=columns)
        extent = legend.get_window_extent()
        if extent.width < figure.bbox.width or columns == 1:
            break
        legend.remove()
    return extent.height / figure.dpi


def _by_columns(rows: list[list[Line2D]], columns: int) -> list[Line2D]:
    """Orders the entries of a legend so that its rows are kept, because matplotlib fills it column by column."""
    filled = [row + [Line2D([], [], ls="none", label=" ") for _ in range(columns - len(row))] for row in rows]
    return [handle for column in zip(*filled, strict=True) for handle in column]
