"""Table of the comparison of two models in the terminal."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from nemo_birq.scoring.tables import interval, p_value, percent

SIGNIFICANT = 0.05


def comparison_table(found: dict) -> Table:
    """Returns a table of the rates of both models, their difference and its tests, as ``compare`` computes them."""
    title = "Second minus first, in percentage points"
    table = Table(title=title, header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", min_width=3)
    for column in ("first", "second", "differ-\nence", "pairs", "of", "95 %", "p, per-\nmutation", "p,\nMAPSSWE"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in ("wer", "cer"):
        rate = found[name]
        for rows in ("utterances", "speakers"):
            if rows not in rate:
                continue
            test = rate[rows]
            values = [*(percent(rate[key]) for key in ("first", "second")), f"{100 * rate['difference']:+.2f}"]
            head = [name.upper(), *values]
            pairs = p_value(test["matched_pairs_p"]) if "matched_pairs_p" in test else ""
            table.add_row(
                *(head if rows == "utterances" else [""] * 4), f"{test['rows']:,}", rows, interval(test["interval"]),
                p_value(test["permutation_p"]), pairs,
            )  # fmt: skip
    return table


def verdict(found: dict) -> str:
    """Returns a sentence with the result of the permutation tests over utterances and speakers, at the 5 % level."""
    rate = found["wer"]
    p = rate["utterances"]["permutation_p"]
    if p >= SIGNIFICANT:
        return f"No significant difference in word errors (permutation of utterances, p {p_value(p)})."
    better = "second" if rate["difference"] < 0 else "first"
    said = f"The {better} model makes fewer word errors (permutation of utterances, p {p_value(p)})"
    if "speakers" not in rate:
        return f"{said}. The speakers are unknown, so the result was not tested for other speakers."
    over, speakers = rate["speakers"]["permutation_p"], rate["speakers"]["rows"]
    if 2 ** (1 - speakers) >= SIGNIFICANT:
        return f"{said} on these speakers; {speakers} are too few to test the result for other speakers."
    if over >= SIGNIFICANT:
        return f"{said} on these speakers; the result is not significant over speakers (p {p_value(over)})."
    return f"{said}; the result is also significant over speakers (p {p_value(over)})."
