"""Draws the PNMI of labels and phones: over the layers at the end of training, and over the steps of training."""

from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nemo_birq.report.catalogue import Line, Picture
from nemo_birq.report.events import Point
from nemo_birq.report.experiment_folder import TrainingRun
from nemo_birq.report.pictures import QUIET, THEMES, Drawn, colour, draw, draw_png, name_entries
from nemo_birq.utils.colours import ANCHOR, ENHANCED, KMEANS, MARKERS

KINDS = {
    "layer": ("nearest codes of each layer", ENHANCED, {"ls": "-", "marker": "o", "markersize": 4}),
    "kmeans": ("k-means of each layer", KMEANS, {"ls": "--", "marker": "s", "markersize": 4}),
    "anchor": ("anchor labels", ANCHOR, {"ls": ":"}),
    "enhanced": ("enhanced labels (layer k)", ENHANCED, {"ls": "none", "marker": "D", "markersize": 8}),
}
"""Kinds of labels in a ``label_quality*.json``: name, colour in the pictures of a single run, and style."""


def draw_layers(runs: list[TrainingRun]) -> Drawn | None:
    """Draws the PNMI of the codes of every layer and of the training labels at the last evaluation. Returns None if no run
    has one.
    """
    evaluations = [(i, run, run.quality[-1]) for i, run in enumerate(runs) if run.quality]
    said = [
        f"{run.name}, {_row_name(row)}: {row['pnmi']:.3f}"
        for _, run, evaluation in evaluations
        for row in quality_rows(evaluation)
    ]
    if not said:
        return None
    alone = len(runs) == 1

    def paint(axes: Axes) -> list[list[Line2D]]:
        drawn = []
        for index, _, evaluation in evaluations:
            for kind, (_, ink, style) in KINDS.items():
                rows = quality_rows(evaluation, kind)
                shape = {"color": ink if alone else colour(index)} | style
                if not alone and kind == "layer":
                    shape["marker"] = MARKERS[index]
                if kind == "anchor":
                    for row in rows:
                        axes.axhline(row["pnmi"], **shape)
                elif points := sorted((row["layer"], row["pnmi"]) for row in rows if row.get("layer") is not None):
                    axes.plot(*zip(*points, strict=True), **shape)
                if rows and kind not in drawn:
                    drawn.append(kind)
        axes.set(xlabel="encoder layer", ylabel="PNMI")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        kinds = [
            Line2D([], [], label=KINDS[kind][0], **{"color": KINDS[kind][1] if alone else QUIET} | KINDS[kind][2])
            for kind in drawn
        ]
        return [name_entries(runs, [i for i, *_ in evaluations]), kinds]

    title = "Agreement with phones, by layer"
    return Drawn(
        "quality_layers", title, f"{title}, PNMI. {'; '.join(said)}.", *(draw_png(title, paint, theme) for theme in THEMES)
    )


def draw_quality_over_time(runs: list[TrainingRun]) -> Drawn | None:
    """Draws the PNMI of anchor and enhanced labels over steps. Returns None if no run was evaluated at two steps."""
    lines = (Line("enhanced", "enhanced", colour=ENHANCED), Line("anchor", "anchor", ":", colour=ANCHOR))
    evaluated = [replace(run, curves={k: v for k, v in quality_over_time(run).items() if len(v) > 1}) for run in runs]
    return draw(Picture("quality_over_time", "Agreement with phones, over training", "PNMI", lines), evaluated)


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
