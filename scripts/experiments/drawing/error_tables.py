"""Tables of the error rates of methods, and of their differences."""

from experiments.drawing.markdown import NOTHING, interval, percent, table
from experiments.drawing.records import NAMES, Group, Record
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


def summary_table(group: Group) -> str:
    """Formats the rates of the methods, and the difference of each CER to that of BEST-RQ; empty if none was scored."""
    methods = scored(group.of("method"))
    baseline = methods.get(BASELINES[0])
    header = ["method", "seeds", "CER %", "WER %"]
    if baseline:
        header += [f"CER − `{BASELINES[0]}`", "95 %, t over seeds"]
    rows = []
    for name, records in methods.items():
        rates = [rate_cells(rate_of(counts_of(records, rate)))[0] for rate in RATES]
        row = [f"{NAMES[name]} (`{name}`)" if name in NAMES else f"`{name}`", str(len(records)), *rates]
        if baseline:
            compared = name != BASELINES[0]
            cells = _difference_cells(counts_of(records, "cer"), counts_of(baseline, "cer")) if compared else None
            row += [cells[1], cells[4]] if cells else [NOTHING, NOTHING]
        rows.append(row)
    return table(header, rows) if rows else ""


def size_of_test_set(group: Group) -> str:
    """Formats the size of this group's test set, and a warning if it is too small for the permutation test."""
    records = next(iter(scored(group.of("method")).values()))
    counts = counts_of(records, "cer")
    scores = records[0].scores
    rows, size = counts.rows, len(counts.units)
    speakers = f"{size:,} speakers, " if rows == "speakers" else ""
    min_p = 2 / 2**size
    few = f" With so few {rows} p cannot be below {p_value(min_p)}, and nothing is bold." if min_p >= SIGNIFICANCE else ""
    return f"Test set: {speakers}{scores['utterances']:,} utterances, {scores['words']:,} words.{few}"
