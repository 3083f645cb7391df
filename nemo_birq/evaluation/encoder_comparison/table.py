"""Table of encoders for the terminal: a section for each measure, in which the encoders stand below each other."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from nemo_birq.evaluation.abx.layers import best_layer
from nemo_birq.evaluation.encoder_comparison.measure import Measured
from nemo_birq.evaluation.probing.evaluation import ProbeScore

KINDS = ("within", "across")
"""Kinds of ABX, by the speakers of A and X."""
SUM = "sum"
MISSING = "-"


class Cells(NamedTuple):
    """An error rate on the test set."""

    layer: str
    """The layer that the dev set chooses, or ``SUM`` for the weighted sum."""
    error: str
    interval: str
    """95 % interval in percent."""


def table(rows: Sequence[Measured]) -> Table:
    """Returns a table of the error rates on the test set; below it, the size and the frame rate of each encoder."""
    sizes = [f"{row.name}: {row.parameters / 1e6:,.1f} M parameters, {row.frame_rate:.1f} frames a second" for row in rows]
    found = Table(title="Error rates on the test set", caption="\n".join(sizes), caption_justify="left", box=SIMPLE_HEAD)
    for number, header in enumerate(("", "layer", "errors", "95 %")):
        found.add_column(header, justify="right" if number else "left")
    for measure, scores in _sections(rows):
        found.add_row(Text(measure, style="bold"))
        for row, cells in zip(rows, scores, strict=True):
            found.add_row(Text(f"  {row.name}"), *cells)
        found.add_section()
    return found


def _sections(rows: Sequence[Measured]) -> Iterator[tuple[str, list[Cells]]]:
    """Yields the name of each measure with its cells for all encoders."""
    if any(row.abx for row in rows):
        for kind in KINDS:
            yield f"ABX {kind}", [abx_cells(row, kind) for row in rows]
    for task, metric in rows[0].metrics.items():
        yield f"{metric}, best layer", [probe_cells(row.best_layer(task)) for row in rows]
        yield f"{metric}, weighted sum of layers", [probe_cells(row.weighted_sum(task)) for row in rows]


def abx_cells(row: Measured, kind: str) -> Cells:
    """Returns the error rate on the test set of the layer that the dev set chooses."""
    best = best_layer(row.abx, kind)
    found = best and getattr(best.test, kind)
    if found is None or found.error is None:
        return Cells(MISSING, MISSING, "")
    return Cells(str(best.layer), f"{found.error:.1%}", _limits(found.interval))


def probe_cells(row: ProbeScore | None) -> Cells:
    """Returns the error rate of a probe; without a probe, that it is missing."""
    if row is None:
        return Cells(MISSING, MISSING, "")
    return Cells(SUM if row.is_weighted_sum else str(row.layer), f"{row.error:.1%}", _limits(row.error_interval))


def _limits(interval: tuple[float, float] | None) -> str:
    return "-".join(f"{100 * limit:.1f}" for limit in interval) if interval else ""
