"""The last values of all runs side by side."""

from dataclasses import dataclass

from nemo_birq.report.catalogue import TABLE, Row
from nemo_birq.report.runs import Run


@dataclass(frozen=True)
class Cell:
    """A number in the table."""

    value: float | None
    best: bool = False

    @property
    def text(self) -> str:
        return "–" if self.value is None else number(self.value)


@dataclass(frozen=True)
class TableRow:
    """A line of the table, a cell for each run."""

    label: str
    cells: list[Cell]


def number(value: float) -> str:
    """Four significant digits; small ones as powers of ten, whole ones as they are."""
    if value == int(value):
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.4g}"


def table(runs: list[Run]) -> dict[str, list[TableRow]]:
    """Rows by group; those that no run logged are left out."""
    found = {}
    for group, rows in TABLE.items():
        filled = [TableRow(row.label, _mark([_value(run, row) for run in runs], row.best)) for row in rows]
        filled = [row for row in filled if any(cell.value is not None for cell in row.cells)]
        steps = [max((p.step for r in rows if (p := run.last(r.tag))), default=None) for run in runs]
        if filled:
            found[group] = [TableRow("at step", [Cell(step) for step in steps]), *filled]
    return found


def _value(run: Run, row: Row) -> float | None:
    point = run.last(row.tag)
    other = run.last(row.below or row.above or row.tag)
    if point is None or other is None:
        return None
    if row.below:
        return other.value - point.value
    return point.value - other.value if row.above else point.value


def _mark(values: list[float | None], best: str | None) -> list[Cell]:
    known = [value for value in values if value is not None]
    if best is None or len(known) < 2:
        return [Cell(value) for value in values]
    winner = max(known) if best == "high" else min(known)
    return [Cell(value, value == winner and len(set(known)) > 1) for value in values]
