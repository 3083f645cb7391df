"""Command ``birq compare-scores``: significance of the difference between two recognizers on one test set."""

from pathlib import Path

from nemo_birq.command_line import options
from nemo_birq.command_line.command import PATH, command
from nemo_birq.utils.files import write_json
from nemo_birq.utils.terminal import Terminal

console = Terminal()


@command("compare-scores")
@options.argument("first", "json that birq score wrote", type=PATH)
@options.argument("second", "json that birq score wrote for the same test set", type=PATH)
@options.option("--most", type=int, default=5, help="Number of utterances with the largest differences to show.")
@options.out_option("Output JSON file of the comparison.")
def compare_scores(first: Path, second: Path, most: int, out: Path | None) -> None:
    """Tests if the difference between two recognizers on one test set is significant.

        birq compare-scores first.json second.json

    The command pairs the utterances of two files that birq score wrote. It prints the difference of the error rates with
    confidence intervals and p values, and the utterances that differ most.
    """
    from nemo_birq.scoring.comparison import compare
    from nemo_birq.scoring.comparison_table import comparison_table, verdict
    from nemo_birq.scoring.score_file import read_score
    from nemo_birq.scoring.tables import aligned

    if out and out.exists():
        raise ValueError(f"--out {out} exists: give another file")
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
