"""Table of encoders for the terminal: a row an encoder, a column a measure."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from nemo_birq.evaluation.abx.layers import best_layer
from nemo_birq.evaluation.encoder_comparison.measure import Measured
from nemo_birq.evaluation.probing.evaluation import ProbeScore

KINDS = ("within", "across")
"""Kinds of ABX, by the speakers of A and X."""
CAPTION = "(layer that the dev set chooses); below: 95 % interval"


def table(rows: Sequence[Measured]) -> Table:
    """Returns a table with the error rates on the test set, their layers and 95 % intervals."""
    title = "Error rates on the test set"
    found = Table(title=title, caption=CAPTION, header_style="bold", box=SIMPLE_HEAD, show_lines=True)
    has_abx, metrics = any(row.abx for row in rows), rows[0].metrics
    headers = ["encoder\nsize, frame rate"] + [f"ABX\n{kind}" for kind in KINDS if has_abx]
    headers += [f"{metric}\n{kind}" for metric in metrics.values() for kind in ("best layer", "weighted sum")]
    for number, header in enumerate(headers):
        found.add_column(header, justify="right" if number else "left", overflow="fold")
    for row in rows:
        cells = [f"{row.name}\n{row.parameters / 1e6:,.1f} M, {row.frame_rate:.1f} Hz"]
        cells += [abx_cell(row, kind) for kind in KINDS if has_abx]
        for task in metrics:
            mixed = row.weighted_sum(task)
            cells += [probe_cell(row.best_layer(task)), probe_cell(mixed) if mixed else "-"]
        found.add_row(*cells)
    return found


def abx_cell(row: Measured, kind: str) -> str:
    """Returns the error rate on the test set of the layer that the dev set chooses, with its interval."""
    best = best_layer(row.abx, kind)
    found = best and getattr(best.test, kind)
    if found is None or found.error is None:
        return "-"
    return f"{found.error:.1%} ({best.layer})" + (f"\n{_limits(found.interval)}" if found.interval else "")


def probe_cell(row: ProbeScore) -> str:
    """Returns an error rate with its layer and interval."""
    return f"{row.error:.1%}{'' if row.is_weighted_sum else f' ({row.layer})'}\n{_limits(row.error_interval)}"


def _limits(interval: tuple[float, float]) -> str:
    return "-".join(f"{100 * limit:.1f}" for limit in interval)
