"""Command ``birq score``: error rates of a recognizer on test sets, with confidence intervals."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from nemo_birq.command_line import options
from nemo_birq.command_line.command import PATH, command
from nemo_birq.utils.terminal import Terminal

if TYPE_CHECKING:
    from nemo_birq.scoring.eval_sets import TestSet
    from nemo_birq.scoring.scorer import Scorer

console = Terminal()
COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


def tuned(run: "Scorer", dev: "TestSet") -> dict:
    """Chooses the weights on a development set, and prints all trials."""
    from nemo_birq.scoring.tables import tuning_table
    from nemo_birq.scoring.tuning import at_the_edge, best

    trials = run.tune(dev)
    chosen = best(trials)
    console.print(tuning_table(trials, f"WER % on {dev.name} ({len(dev.lines)} utterances)"))
    for name in at_the_edge(trials):
        note = f"the best {name} is at the edge of the grid; try more values with --{name}s"
        console.print(Text.assemble(("Note: ", "yellow"), note))
    console.print(f"Chosen: alpha {chosen.alpha:g}, beta {chosen.beta:g}")
    return run.decoding((chosen.alpha, chosen.beta), dev)


def score_all(run: "Scorer", tests: "list[TestSet]", dev: "TestSet | None") -> dict[str, dict]:
    """Returns scores by the name of the test set; existing files are reused."""
    decoding = tuned(run, dev) if dev else run.decoding()
    results = run.existing_scores(tests, decoding)
    for test in tests:
        if results[test.name] is None:
            results[test.name] = run.score(test, decoding)
        else:
            path = run.result_path(test.name)
            console.print(f"{test.name}: already scored, {path} (--redo decodes it again)", soft_wrap=True)
    return results


def check_options(lm: Path | None, tune: str | None, for_lm: dict[str, object]) -> None:
    """Refuses options of the language model that do not go together.

    Args:
        for_lm: options that need ``--lm``, with their values; None or empty if not given.

    Raises:
        click.UsageError: names the option.
    """
    given = {name for name, value in for_lm.items() if value not in (None, ())}
    if given and not lm:
        raise click.UsageError(f"{min(given)} needs a language model: give --lm")
    if tune and given & {"--alpha", "--beta"}:
        raise click.UsageError("--tune chooses alpha and beta: remove --alpha and --beta")
    if not tune and given & {"--alphas", "--betas"}:
        raise click.UsageError("--alphas and --betas need --tune: give a development set")


def usable_device(name: str | None) -> str:
    """Returns the device for decoding: the given one, otherwise the GPU if there is one.

    Raises:
        click.UsageError: PyTorch cannot use the device.
    """
    import torch

    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch was built without CUDA
        raise click.UsageError(
            f"--device {device} cannot be used ({str(error).splitlines()[0]}); remove it to use an available device"
        ) from error
    return device


@command("score")
@options.model_argument(".nemo of a recognizer (CTC, RNNT or hybrid)")
@options.argument(
    "tests", "manifest of single audio files, a path or URL, or NAME=MANIFEST", nargs=-1, required=True, metavar="TEST..."
)
@options.out_option("Folder for the results; by default scores/ beside the model.")
@options.option("--batch-size", type=click.IntRange(min=1), default=16, help="Number of utterances in a batch.")
@options.option(
    "--look-ahead",
    type=click.IntRange(min=-1),
    metavar="FRAMES",
    help="Look-ahead of a streaming encoder, in its frames: one of those in its training; by default the first.",
)
@options.option("--device", help="cpu or cuda; by default a GPU if there is one.")
@options.normalization_option()
@options.option("--worst", type=int, default=5, help="Number of worst utterances to show.")
@options.option("--redo", is_flag=True, help="Decode test sets again even if their scores exist.")
@options.option("--lm", type=PATH, help="N-gram language model of words or of the recognizer's tokens, an ARPA file.")
@options.option(
    "--beam-size", type=click.IntRange(min=1), help="Number of hypotheses; by default 128 for words, 16 for tokens."
)
@options.option("--alpha", type=float, help="Weight of the language model; by default 2 for words, 0.5 for tokens.")
@options.option("--beta", type=float, help="Reward for each word or token; by default 1.")
@options.option("--tune", metavar="DEV", help="Manifest of a development set on which to choose alpha and beta.")
@options.several_option("--alphas", "Values of alpha to try, such as 0 0.5 1.", type=float, metavar="FLOAT...")
@options.several_option("--betas", "Values of beta to try.", type=float, metavar="FLOAT...")
def score(
    model: Path, tests: tuple[str, ...], out: Path | None, batch_size: int, device: str | None, normalization: str,
    worst: int, redo: bool, lm: Path | None, beam_size: int | None, alpha: float | None, beta: float | None,
    tune: str | None, alphas: tuple[float, ...], betas: tuple[float, ...], look_ahead: int | None,
) -> None:  # fmt: skip
    """Transcribes test sets with a recognizer, and prints word and character error rates with confidence intervals.

        birq score model.nemo test-clean.json test-other.json
        birq score model.nemo ihm=ihm/test.json sdm=sdm/test.json --lm 4-gram.arpa --tune dev.json
        birq score streaming.nemo test.json --look-ahead 1

    Decoding is greedy, or uses an n-gram language model (CTC), whose weights --tune chooses on a development set. The
    command prints a table and the worst utterances, and writes <model>_<test set>_<greedy or language model>.json and .png.
    Existing scores are reused. docs/scoring.md explains the numbers; birq compare-scores compares two models.
    """
    check_options(lm, tune, {
        "--beam-size": beam_size, "--alpha": alpha, "--beta": beta, "--tune": tune, "--alphas": alphas, "--betas": betas,
    })  # fmt: skip
    from nemo.utils import logging

    from nemo_birq.scoring.eval_sets import check_apart, read_test_sets
    from nemo_birq.scoring.scorer import Scorer, language_model
    from nemo_birq.scoring.tables import describe_decoding, describe_normalization, details, score_table
    from nemo_birq.utils.progress import ProgressBars

    device = usable_device(device)
    logging.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*pin_memory")  # a warning of NeMo's loader on a machine without GPU
    sets = read_test_sets(list(tests))
    dev = read_test_sets([tune])[0] if tune else None
    if dev:
        check_apart(sets, dev)
    grid = (list(alphas) or None, list(betas) or None)
    decoder = language_model(lm, beam_size, alpha, beta, *grid) if lm else None
    folder = out or model.parent / "scores"
    with ProgressBars(*COLUMNS, console=console, transient=True) as progress:
        run = Scorer(model, folder, progress, device, batch_size, normalization, redo, decoder, look_ahead)
        results = score_all(run, sets, dev)

    for found in results.values():
        console.print(details(found, worst, console.width))
    console.print(score_table(results, f"{model.name}\n{describe_decoding(results[sets[0].name])}"))
    console.print(describe_normalization(list(results.values())))
    if any(0 < len(found["speakers"]) < 20 for found in results.values()):
        console.print("With fewer than 20 speakers, the interval over speakers is itself uncertain and mostly too narrow.")
    for test in sets:
        console.print(str(run.result_path(test.name)), soft_wrap=True)
