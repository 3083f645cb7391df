"""The last values of all runs side by side."""

import math
from dataclasses import dataclass

from nemo_birq.report.catalogue import TABLE, Row
from nemo_birq.report.experiment_folder import TrainingRun


@dataclass(frozen=True)
class Cell:
    """A number in the table."""

    value: float | None
    """None where the run did not log it."""
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


def _cells(runs: list[TrainingRun], row: Row) -> list[Cell]:
    values = [_value(run, row) for run in runs]
    known = {value for value in values if value is not None and math.isfinite(value)}
    has_best = row.minus is not None and len(known) > 1
    return [Cell(value, has_best and value == max(known)) for value in values]


def _value(run: TrainingRun, row: Row) -> float | None:
    point = run.last(row.tag)
    if point is None:
        return None
    if row.minus is None:
        return point.value
    other = run.last(row.minus)
    return None if other is None else point.value - other.value
