"""Draws the curves of all runs. Each picture has a light and a dark version."""

import io
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nemo_birq.report.catalogue import Line, Picture
from nemo_birq.report.events import Point
from nemo_birq.report.experiment_folder import TrainingRun
from nemo_birq.utils.pictures import plain

COLOURS = ("#3b82d6", "#e0782f", "#2e9e6b", "#b562cc", "#c79a12", "#d64f68", "#3aa7b5", "#8a7f78", "#6f6fe0", "#7f9b2c")
"""Colours of the runs in their order, legible on both backgrounds."""
THEMES = {"light": ("#ffffff", "#24292f", "#d8dee4"), "dark": ("#161b22", "#e6edf3", "#30363d")}
"""Colours of background, text and grid."""
WIDTH = 45
"""Characters in a line of a title or of a run's name."""


@dataclass(frozen=True)
class Drawn:
    """A picture as PNG for both themes, with the alternative text for readers who do not see it."""

    name: str
    title: str
    alt: str
    light: bytes
    dark: bytes


def colour(index: int) -> str:
    """Returns the colour of the run at this position."""
    return COLOURS[index % len(COLOURS)]


def points_of(run: TrainingRun, line: Line) -> list[Point]:
    """Returns the curve of a run, empty where it was not logged."""
    return run.curves.get(line.tag) or run.curves.get(line.instead or "", [])


def draw(picture: Picture, runs: list[TrainingRun]) -> Drawn | None:
    """Draws the curves of a picture. Returns None if no run logged any."""
    curves = [(i, run, line, p) for i, run in enumerate(runs) for line in picture.lines if (p := points_of(run, line))]
    if not curves:
        return None

    def paint(axes: Axes) -> list[list[Line2D]]:
        for index, _, line, points in curves:
            marked = line.style == "o" or (line.style != ":" and len(points) < 8)
            style = {"ls": "-" if line.style == "o" else line.style, "lw": 0.9 if marked else 1.5}
            marker = {"marker": "o", "markersize": 3.5} if marked else {}
            axes.plot([p.step for p in points], [p.value for p in points], color=colour(index), **style, **marker)
        for level in picture.levels.values():
            axes.axhline(level, color="#d1495b", ls=(0, (6, 3)), lw=1)
        axes.set(xlabel="step", ylabel=picture.unit)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if picture.log and all(p.value > 0 for *_, points in curves for p in points):
            axes.set_yscale("log")
        return _legend(picture, curves, runs)

    return Drawn(
        picture.name, picture.title, _alt(picture, curves), *(_png(picture.title, paint, theme) for theme in THEMES)
    )


def _legend(picture: Picture, curves: list, runs: list[TrainingRun]) -> list[list[Line2D]]:
    """Returns the entries of the legend: runs in the first row, kinds of lines in the second."""
    ink = "#8b949e"
    shown = sorted({index for index, *_ in curves})
    names = _names(runs, shown)
    handles: list[Line2D] = []
    lines = [line for line in picture.lines if any(line == drawn for _, _, drawn, _ in curves)]
    if len(lines) > 1 or picture.lines[0] not in lines:
        for line in lines:
            marked = {"marker": "o", "markersize": 3.5, "ls": "-", "lw": 0.9} if line.style == "o" else {"ls": line.style}
            handles.append(Line2D([], [], color=ink if len(runs) > 1 else colour(0), label=plain(line.label), **marked))
    handles += [
        Line2D([], [], color="#d1495b", ls=(0, (6, 3)), lw=1, label=f"{word} {level:g}" if level else word)
        for word, level in picture.levels.items()
    ]
    return [names, handles]


def _names(runs: list[TrainingRun], shown: list[int]) -> list[Line2D]:
    """Returns the entries of the shown runs, with long names broken into lines; none for a single run."""
    if len(runs) == 1:
        return []
    return [Line2D([], [], color=colour(i), lw=3, label=plain(textwrap.fill(runs[i].name, WIDTH))) for i in shown]


def _alt(picture: Picture, curves: list) -> str:
    def at(point: Point) -> str:
        return f"{point.value:.3g} at step {point.step}"

    said = [f"{run.name}, {line.label}: {at(points[0])}, {at(points[-1])}" for _, run, line, points in curves]
    return f"{picture.title} over steps. {'; '.join(said)}."


def draw_layers(runs: list[TrainingRun]) -> Drawn | None:
    """Draws the PNMI of the codes of every layer and of the training labels at the last evaluation. Returns None if no run
    has one.
    """
    evaluations = [(i, run, run.quality[-1]) for i, run in enumerate(runs) if run.quality]
    kinds = {"layer": ("every layer", "-"), "kmeans": ("k-means", "--")}
    flat = {"anchor": ("anchor", ":"), "enhanced": ("enhanced (layer k)", "D")}
    drawn: dict[str, str] = {}

    def paint(axes: Axes) -> list[list[Line2D]]:
        for index, _, evaluation in evaluations:
            for kind, (word, style) in kinds.items():
                points = sorted(
                    (r["layer"], r["pnmi"]) for r in quality_rows(evaluation, kind) if r.get("layer") is not None
                )
                if points:
                    axes.plot(*zip(*points, strict=True), color=colour(index), ls=style, marker="o", markersize=3.5)
                    drawn[word] = style
            for row in quality_rows(evaluation, "anchor"):
                axes.axhline(row["pnmi"], color=colour(index), ls=":")
                drawn[flat["anchor"][0]] = ":"
            for row in quality_rows(evaluation, "enhanced"):
                if row.get("layer") is not None:
                    axes.plot(row["layer"], row["pnmi"], color=colour(index), marker="D", ls="none", markersize=7)
                    drawn[flat["enhanced"][0]] = "D"
        axes.set(xlabel="encoder layer", ylabel="PNMI")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles = _names(runs, [i for i, *_ in evaluations])
        ink = "#8b949e" if len(runs) > 1 else colour(0)
        marks = {word: {"marker": "D", "ls": "none"} if style == "D" else {"ls": style} for word, style in drawn.items()}
        return [handles, [Line2D([], [], color=ink, label=word, **mark) for word, mark in marks.items()]]

    said = [
        f"{run.name}, {_row_name(row)}: {row['pnmi']:.3f}"
        for _, run, evaluation in evaluations
        for row in quality_rows(evaluation)
    ]
    if not said:
        return None
    title = "What the labels tell about phones, by layer"
    return Drawn("quality_layers", title, f"{title}, PNMI. {'; '.join(said)}.", *(_png(title, paint, t) for t in THEMES))


def draw_quality_over_time(runs: list[TrainingRun]) -> Drawn | None:
    """Draws the PNMI of anchor and enhanced labels over steps. Returns None if no run was evaluated at two steps."""
    lines = (Line("anchor", "anchor", ":"), Line("enhanced", "enhanced"))
    evaluated = [replace(run, curves={k: v for k, v in quality_over_time(run).items() if len(v) > 1}) for run in runs]
    return draw(Picture("quality_over_time", "Label quality over time", "PNMI", lines), evaluated)


def quality_over_time(run: TrainingRun) -> dict[str, list[Point]]:
    """Returns the PNMI by kind of labels with one point for each step.

    The last checkpoint and the ``.nemo``, which does not name its step, are the same model.
    """
    found: dict[str, dict[int, Point]] = {"anchor": {}, "enhanced": {}}
    for evaluation in run.quality:
        step = evaluation["step"] if isinstance(evaluation.get("step"), int) else run.steps
        for kind, points in found.items():
            for row in quality_rows(evaluation, kind)[:1]:
                points[step] = Point(step, row["pnmi"], 0.0)
    return {kind: sorted(points.values()) for kind, points in found.items()}


def quality_rows(evaluation: dict, kind: str | None = None) -> list[dict]:
    """Returns the rows of a label_quality.json that have a PNMI, of one kind of labels or of all."""
    return [
        row for row in evaluation["rows"]
        if isinstance(row, dict) and row.get("pnmi") is not None and (kind is None or row.get("labels") == kind)
    ]  # fmt: skip


def _row_name(row: dict) -> str:
    return f"{row.get('labels')} {row['layer']}" if row.get("layer") is not None else str(row.get("labels"))


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


def _png(title: str, paint: Callable[[Axes], list[list[Line2D]]], theme: str) -> bytes:
    with _theme(theme):
        figure = Figure(figsize=(5.2, 3.2), dpi=170, layout="constrained")
        axes = figure.add_subplot()
        rows = [row for row in paint(axes) if row]
        axes.set_title(plain(textwrap.fill(title, WIDTH)))
        if rows:
            figure.set_figheight(3.2 + _add_legend(figure, rows))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


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
    """Orders the entries of a legend so that its rows are kept, as matplotlib fills column by column."""
    filled = [row + [Line2D([], [], ls="none", label=" ") for _ in range(columns - len(row))] for row in rows]
    return [handle for column in zip(*filled, strict=True) for handle in column]
