"""Who makes fewer errors: the rates of the methods, and their differences."""

from experiments.drawing.markdown import NOTHING, interval, percent, table
from experiments.drawing.runs import Group, Run
from experiments.drawing.statistics import Counts, Rate, counts_of, difference_of, rate_of
from nemo_birq.scoring.tables import p_value

BASELINES = ("best_rq", "scratch", "relabelled", "birq")
RATES = ("cer", "wer")


def scored(runs: dict[str, list[Run]]) -> dict[str, list[Run]]:
    """Of each method the runs with scores; methods without any are left out."""
    found = {name: [run for run in of_method if run.scores is not None] for name, of_method in runs.items()}
    return {name: of_method for name, of_method in found.items() if of_method}


def rate_table(group: Group) -> str:
    """Error rates of the methods; empty where none was scored."""
    rows = []
    for name, runs in scored(group.of("method")).items():
        cells = [cell for rate in RATES for cell in rate_cells(rate_of(counts_of(runs, rate)))]
        rows.append([f"`{name}`", str(len(runs)), *cells])
    return table(("method", "seeds", "CER %", "95 %", "WER %", "95 %"), rows) if rows else ""


def rate_cells(rate: Rate) -> tuple[str, str]:
    """Mean ± standard deviation, and the interval, in percent."""
    spread = f" ± {percent(rate.deviation)}" if rate.deviation is not None else ""
    return percent(rate.mean) + spread, interval(rate.interval)


def difference_table(group: Group, rate: str) -> str:
    """Of a rate, every method against each baseline that stands before it; empty where there is nothing to compare."""
    runs = scored(group.of("method"))
    order, rows = list(runs), []
    for baseline in [name for name in BASELINES if name in runs]:
        for name in order[order.index(baseline) + 1 :]:
            cells = _difference_cells(counts_of(runs[name], rate), counts_of(runs[baseline], rate))
            rows.append([f"`{name}` − `{baseline}`", *cells])
    if not rows:
        return ""
    over = counts_of(next(iter(runs.values())), rate).rows
    header = ("difference", "seeds", rate.upper(), "relative", f"95 %, seeds and {over}", "95 %, t over seeds", f"p, {over}")
    return table(header, rows)


def _difference_cells(counts: Counts, baseline: Counts) -> list[str]:
    found = difference_of(counts, baseline)
    if found is None:
        return ["0", *[NOTHING] * 5]
    points = f"{100 * found.mean:+.1f}"
    return [
        str(found.seeds), f"**{points}**" if found.is_shown else points, f"{100 * found.relative:+.0f} %",
        interval(found.interval, "+"), interval(found.seed_interval, "+"), p_value(found.p),
    ]  # fmt: skip


def how_sure(group: Group) -> str:
    """What the columns mean, with this group's numbers."""
    runs = next(iter(scored(group.of("method")).values()))
    counts = counts_of(runs, "cer")
    scores = runs[0].scores
    said = f"{scores['utterances']:,} utterances, {scores['words']:,} words"
    speakers = f"{len(counts.units):,} speakers, " if counts.rows == "speakers" else ""
    of_one, least = counts.rows.removesuffix("s"), 2 / 2 ** len(counts.units)
    few = f" With so few {counts.rows} p cannot be below {p_value(least)}, and nothing is bold." if least >= 0.05 else ""
    return (
        f"Test set: {speakers}{said}. Rates: mean ± standard deviation over seeds; 95 %: bootstrap, seeds and {counts.rows} "
        "drawn again. Differences are in percentage points, below zero the first method is better; they are paired by seed "
        "and by utterance. *t over seeds* takes the differences of single seeds for normal and knows nothing of "
        f"{counts.rows}; *p* exchanges the two methods at random, {of_one} by {of_one}, all seeds "
        "together, and knows nothing of other seeds. **Bold**: neither explains the difference by chance (t interval "
        "without 0, p < 0.05; not corrected for the number of comparisons)." + few
    )
