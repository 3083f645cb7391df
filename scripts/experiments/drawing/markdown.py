"""Numbers and tables in Markdown."""

from collections.abc import Sequence

import numpy as np

NOTHING = "–"


def table(header: Sequence[str], rows: list[Sequence[str]], left: int = 1) -> str:
    """Formats a table; its first ``left`` columns are aligned to the left and the others to the right."""
    marks = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in (header, marks, *rows))


def _escaped(cell: str) -> str:
    return cell.replace("|", r"\|").replace("\n", " ")


def number(value: float | None, digits: int = 2) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"


def interval(found: tuple[float, float] | None, sign: str = "") -> str:
    """Formats an interval in percent."""
    return NOTHING if found is None else f"{100 * found[0]:{sign}.1f} to {100 * found[1]:{sign}.1f}"


def plus_minus(values: Sequence[float | None], digits: int = 2) -> str:
    """Formats mean and standard deviation (n - 1) of the known values."""
    known = [value for value in values if value is not None]
    if not known:
        return NOTHING
    spread = f" ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{np.mean(known):.{digits}f}{spread}"


def mean(values: Sequence[float | None]) -> float | None:
    """Returns the mean of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
