"""Are two recognizers different on one test set, or is it chance?

    python scripts/compare_scores.py first.json second.json

Takes two files that scripts/score.py wrote for the same test set and pairs them utterance by utterance. Prints the
difference of the error rates with intervals and p values, and the utterances that differ most; --out writes it all as JSON.
"""

import argparse
import sys
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from nemo_birq.scoring.comparison import compare, read_score
from nemo_birq.scoring.results import write_score
from nemo_birq.scoring.tables import aligned, interval, p_value, percent

console = Console()


def comparison_table(found: dict) -> Table:
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
    """In a sentence, at 5 %: by the matched pairs test, and by the permutation of speakers where they are known."""
    rate = found["wer"]
    p = rate["utterances"]["matched_pairs_p"]
    if p >= 0.05:
        return f"No difference in word errors that chance does not explain (matched pairs, p {p_value(p)})."
    better = "second" if rate["difference"] < 0 else "first"
    said = f"The {better} model makes fewer word errors (matched pairs of utterances, p {p_value(p)})"
    if "speakers" not in rate:
        return f"{said}. Speakers are not known: whether it would on other people is not tested."
    over, speakers = rate["speakers"]["permutation_p"], rate["speakers"]["rows"]
    if 2 ** (1 - speakers) >= 0.05:
        return f"{said} on these speakers; {speakers} are too few to tell whether it would on others."
    if over >= 0.05:
        return f"{said} on these speakers; that it would on others is not shown (permutation, p {p_value(over)})."
    return f"{said}, and so it is over speakers (permutation, p {p_value(over)})."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="json of scripts/score.py")
    parser.add_argument("second", type=Path, help="json of scripts/score.py, same test set")
    parser.add_argument("--most", type=int, default=5, help="show so many utterances (default 5)")
    parser.add_argument("--out", type=Path, help="write the comparison to this JSON file")
    args = parser.parse_args()
    if args.out and args.out.exists():
        raise ValueError(f"--out {args.out} exists; name another file")
    first, second = read_score(args.first), read_score(args.second)
    with console.status("testing"):
        found = compare(first, second)
    for utterance in found["utterances"][: args.most]:
        console.print(
            f"{utterance['audio_filepath']}, {utterance['first_errors']} and {utterance['second_errors']} errors",
            style="dim", highlight=False, markup=False,
        )  # fmt: skip
        for side in ("first", "second"):
            console.print(f"[bold]{side}")
            console.print(aligned(utterance["reference"], utterance[side], console.width))
    console.print(comparison_table(found))
    console.print(f"{len(found['utterances'])} of {found['num_utterances']} utterances differ in errors.", highlight=False)
    console.print(verdict(found), highlight=False)
    if args.out:
        write_score({"first_file": str(args.first), "second_file": str(args.second)} | found, args.out)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"compare_scores.py: {error}")
