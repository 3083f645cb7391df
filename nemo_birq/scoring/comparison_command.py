"""``birq compare-scores``: is the difference between two recognizers on one test set more than chance?"""

from pathlib import Path

from nemo_birq.command_line import options
from nemo_birq.command_line.command import PATH, command
from nemo_birq.utils.files import write_json
from nemo_birq.utils.terminal import Terminal

console = Terminal()


@command("compare-scores")
@options.argument("first", "json that birq score wrote", type=PATH)
@options.argument("second", "json that birq score wrote for the same test set", type=PATH)
@options.option("--most", type=int, default=5, help="Number of utterances to show, those that differ most.")
@options.out_option("JSON file for the comparison.")
def compare_scores(first: Path, second: Path, most: int, out: Path | None) -> None:
    """Tests whether two recognizers differ on one test set, or whether it is chance.

        birq compare-scores first.json second.json

    Pairs two files that birq score wrote utterance by utterance. Prints the difference of the error rates with intervals and
    p values, and the utterances that differ most.
    """
    from nemo_birq.scoring.comparison import compare
    from nemo_birq.scoring.comparison_table import comparison_table, verdict
    from nemo_birq.scoring.score_file import read_score
    from nemo_birq.scoring.tables import aligned

    if out and out.exists():
        raise ValueError(f"--out {out} exists; name another file")
    scores = read_score(first), read_score(second)
    with console.status("testing"):
        try:
            found = compare(*scores)
        except ValueError as error:
            raise ValueError(f"{first} and {second}: {error}") from error
    for utterance in found["utterances"][:most]:
        console.print(
            f"{utterance['audio_filepath']}, {utterance['first_errors']} and {utterance['second_errors']} errors",
            style="dim",
        )
        for side in ("first", "second"):
            console.print(side, style="bold")
            console.print(aligned(utterance["reference"], utterance[side], console.width))
    console.print(comparison_table(found))
    console.print(f"{len(found['utterances'])} of {found['num_utterances']} utterances differ in errors.")
    console.print(verdict(found))
    if out:
        write_json(out, {"first_file": str(first), "second_file": str(second)} | found)
