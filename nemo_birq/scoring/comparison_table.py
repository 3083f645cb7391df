"""Two models on one test set, for people, in the terminal."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from nemo_birq.scoring.tables import interval, p_value, percent

SIGNIFICANT = 0.05


def comparison_table(found: dict) -> Table:
    """Makes a table of both models' rates, their difference and its tests, as ``compare`` returns them."""
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
    """States the result in a sentence, at 5 %, by the permutation test over both kinds of rows."""
    rate = found["wer"]
    p = rate["utterances"]["permutation_p"]
    if p >= SIGNIFICANT:
        return f"No difference in word errors that chance does not explain (permutation of utterances, p {p_value(p)})."
    better = "second" if rate["difference"] < 0 else "first"
    said = f"The {better} model makes fewer word errors (permutation of utterances, p {p_value(p)})"
    if "speakers" not in rate:
        return f"{said}. Speakers are not known: whether it would on other people is not tested."
    over, speakers = rate["speakers"]["permutation_p"], rate["speakers"]["rows"]
    if 2 ** (1 - speakers) >= SIGNIFICANT:
        return f"{said} on these speakers; {speakers} are too few to tell whether it would on others."
    if over >= SIGNIFICANT:
        return f"{said} on these speakers; that it would on others is not shown (of speakers, p {p_value(over)})."
    return f"{said}, and so it is over speakers (p {p_value(over)})."
