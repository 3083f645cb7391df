"""Tables of the error rates of methods, and of their differences."""

from experiments.drawing.markdown import NOTHING, interval, percent, table
from experiments.drawing.records import Group, Record
from experiments.drawing.statistics import SIGNIFICANCE, Counts, Rate, counts_of, difference_of, rate_of
from nemo_birq.scoring.tables import p_value

BASELINES = ("best_rq", "scratch", "relabelled", "birq")
RATES = ("cer", "wer")


def scored(methods: dict[str, list[Record]]) -> dict[str, list[Record]]:
    """Returns the records with scores by method, without methods that have none."""
    found = {name: [record for record in records if record.scores is not None] for name, records in methods.items()}
    return {name: records for name, records in found.items() if records}


def rate_table(group: Group) -> str:
    """Formats the error rates of the methods; empty if none was scored."""
    rows = []
    for name, records in scored(group.of("method")).items():
        cells = [cell for rate in RATES for cell in rate_cells(rate_of(counts_of(records, rate)))]
        rows.append([f"`{name}`", str(len(records)), *cells])
    return table(("method", "seeds", "CER %", "95 %", "WER %", "95 %"), rows) if rows else ""


def rate_cells(rate: Rate) -> tuple[str, str]:
    """Formats mean ± standard deviation, and the interval, in percent."""
    spread = f" ± {percent(rate.deviation)}" if rate.deviation is not None else ""
    return percent(rate.mean) + spread, interval(rate.interval)


def difference_table(group: Group, rate: str) -> str:
    """Formats the differences of each method to each baseline before it; empty if there is nothing to compare."""
    methods = scored(group.of("method"))
    order, rows = list(methods), []
    for baseline in [name for name in BASELINES if name in methods]:
        for name in order[order.index(baseline) + 1 :]:
            cells = _difference_cells(counts_of(methods[name], rate), counts_of(methods[baseline], rate))
            rows.append([f"`{name}` − `{baseline}`", *cells])
    if not rows:
        return ""
    over = counts_of(methods[order[0]], rate).rows
    header = ("difference", "seeds", rate.upper(), "relative", f"95 %, seeds and {over}", "95 %, t over seeds", f"p, {over}")
    return table(header, rows)


def _difference_cells(counts: Counts, baseline: Counts) -> list[str]:
    found = difference_of(counts, baseline)
    if found is None:
        return ["0", *[NOTHING] * 5]
    points = f"{100 * found.mean:+.1f}"
    return [
        str(found.seeds), f"**{points}**" if found.is_significant else points, f"{100 * found.relative:+.0f} %",
        interval(found.interval, "+"), interval(found.seed_interval, "+"), p_value(found.p),
    ]  # fmt: skip


def column_notes(group: Group) -> str:
    """Explains the columns, with the numbers of this group's test set."""
    records = next(iter(scored(group.of("method")).values()))
    counts = counts_of(records, "cer")
    scores = records[0].scores
    rows, size = counts.rows, len(counts.units)
    speakers = f"{size:,} speakers, " if rows == "speakers" else ""
    row, min_p = rows.removesuffix("s"), 2 / 2**size
    few = f" With so few {rows} p cannot be below {p_value(min_p)}, and nothing is bold." if min_p >= SIGNIFICANCE else ""
    return (
        f"Test set: {speakers}{scores['utterances']:,} utterances, {scores['words']:,} words. Rates are means ± standard "
        f"deviations over seeds; *95 %* is a bootstrap interval that resamples seeds and {rows}. Differences are in "
        "percentage points, paired by seed and by utterance; below zero the first method is better. *t over seeds* assumes "
        f"that the differences of single seeds are normal, and ignores the choice of {rows}. *p* is that of a permutation "
        f"test, which exchanges the two methods {row} by {row}, all seeds together, and ignores the choice of seeds. "
        f"**Bold**: both tests reject chance (t interval without 0, p < {SIGNIFICANCE}; not corrected for the number of "
        "comparisons)." + few
    )
