"""Numbers of the page: six of each run at the top, and a table with the last values of all runs."""

import math
from dataclasses import dataclass

from nemo_birq.monitoring.metrics import MIN_ENTROPY
from nemo_birq.report.catalogue import TABLE, Row
from nemo_birq.report.events import Point
from nemo_birq.report.experiment_folder import TrainingRun

COMPARABLE = 0.05
"""Runs are compared if the steps of their last values differ by at most this share of the larger one."""


@dataclass(frozen=True)
class Cell:
    """A number in the table."""

    value: float | None
    """None if the run did not log it."""
    best: bool = False

    @property
    def text(self) -> str:
        return "–" if self.value is None else number(self.value)


@dataclass(frozen=True)
class TableRow:
    """A line of the table with a cell for each run."""

    label: str
    cells: list[Cell]


def number(value: float) -> str:
    """Formats a number with four significant digits: small ones as powers of ten, whole ones in full, NaN as ``nan``."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value):
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.4g}"


def table(runs: list[TrainingRun]) -> dict[str, list[TableRow]]:
    """Returns the rows by group, without those that no run logged."""
    found = {}
    for group, rows in TABLE.items():
        filled = [TableRow(row.label, _cells(runs, row)) for row in rows]
        filled = [row for row in filled if any(cell.value is not None for cell in row.cells)]
        steps = [max((p.step for r in rows if (p := run.last(r.tag))), default=None) for run in runs]
        if filled:
            found[group] = [TableRow("at step", [Cell(step) for step in steps]), *filled]
    return found


def are_comparable(points: list[Point]) -> bool:
    """Tests if values were logged at about the same step."""
    steps = [point.step for point in points]
    return bool(steps) and max(steps) - min(steps) <= COMPARABLE * max(steps)


def _cells(runs: list[TrainingRun], row: Row) -> list[Cell]:
    values = [_value(run, row) for run in runs]
    known = {value for value in values if value is not None and math.isfinite(value)}
    points = [point for run in runs if (point := run.last(row.tag)) is not None]
    has_best = row.minus is not None and len(known) > 1 and are_comparable(points)
    return [Cell(value, has_best and value == max(known)) for value in values]


def _value(run: TrainingRun, row: Row) -> float | None:
    point = run.last(row.tag)
    if point is None:
        return None
    if row.minus is None:
        return point.value
    other = run.last(row.minus)
    return None if other is None else point.value - other.value


@dataclass(frozen=True)
class Fact:
    """One of the numbers at the top of the page."""

    label: str
    value: str
    """Number with its unit; ``–`` if the run did not log it."""
    detail: str = ""


def facts(run: TrainingRun) -> list[Fact]:
    """Returns the six most important numbers. Losses are those of the last validation, if there was one."""
    hours, speed = run.audio_hours, run.last("train_audio_hours_per_hour")
    entropy = run.last("train_enhanced_normalized_entropy")
    return [
        Fact("steps", f"{run.steps:,}", f"in {duration(run.seconds)}"),
        Fact("audio seen", "–" if hours is None else f"about {_short(hours)} h"),
        Fact("speed", "–" if speed is None else _short(speed.value), "hours of audio per hour"),
        _loss(run, "anchor"),
        _loss(run, "enhanced"),
        Fact(
            "entropy of the enhanced labels", "–" if entropy is None else f"{entropy.value:.2f} of the largest",
            f"healthy above {MIN_ENTROPY:g}",
        ),
    ]  # fmt: skip


def _loss(run: TrainingRun, task: str) -> Fact:
    stage = "val" if run.last(f"val_{task}_loss") else "train"
    loss, unigram = run.last(f"{stage}_{task}_loss"), run.last(f"{stage}_{task}_unigram_entropy")
    label = f"{task} loss, {'validation' if stage == 'val' else 'training'}"
    if loss is None:
        return Fact(label, "–")
    if unigram is None:
        return Fact(label, f"{loss.value:.2f} nats")
    gain = unigram.value - loss.value
    where = "below" if gain >= 0 else "above"
    return Fact(label, f"{loss.value:.2f} nats", f"{abs(gain):.2f} {where} its unigram entropy of {unigram.value:.2f}")


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Formats a duration as ``1 h 05 min`` or ``2 min 40 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"
