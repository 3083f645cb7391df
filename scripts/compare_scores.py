"""Are two recognizers different on one test set, or is it chance?

    python scripts/compare_scores.py first.json second.json

Takes two files that scripts/score.py wrote for the same test set and pairs them utterance by utterance. Prints the
difference of the error rates with intervals and p values, and the utterances that differ most; --out writes it all as JSON.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from nemo_birq.scoring.comparison import compare, read_score
from nemo_birq.scoring.comparison_table import comparison_table, verdict
from nemo_birq.scoring.tables import aligned
from nemo_birq.utils.files import write_json

console = Console(highlight=False)


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
            style="dim", markup=False,
        )  # fmt: skip
        for side in ("first", "second"):
            console.print(f"[bold]{side}")
            console.print(aligned(utterance["reference"], utterance[side], console.width))
    console.print(comparison_table(found))
    console.print(f"{len(found['utterances'])} of {found['num_utterances']} utterances differ in errors.")
    console.print(verdict(found))
    if args.out:
        write_json(args.out, {"first_file": str(args.first), "second_file": str(args.second)} | found)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"compare_scores.py: {error}")
