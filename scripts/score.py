"""Transcribes test sets with a recognizer and says how many words it gets wrong, and how sure that is.

    python scripts/score.py model.nemo test-clean.json test-other.json
    python scripts/score.py model.nemo ihm=ihm/test.json sdm=sdm/test.json --lm 4-gram.arpa --tune dev.json

Greedily, or with an n-gram language model (CTC), whose weights --tune chooses on another set. Prints a table and the worst
utterances; writes <model>_<test set>_<greedy or language model>.json and .png to --out. What is there is not made again.
docs/scoring.md explains the numbers; scripts/compare_scores.py compares two models.
"""

import argparse
import sys
import warnings
from pathlib import Path

import torch
from nemo.utils import logging
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from nemo_birq.scoring.eval_sets import TestSet, check_apart, read_test_sets
from nemo_birq.scoring.normalization import STEPS
from nemo_birq.scoring.scorer import Scorer, language_model
from nemo_birq.scoring.tables import describe_decoding, describe_normalization, details, score_table, tuning_table
from nemo_birq.scoring.tuning import at_the_edge, best
from nemo_birq.utils.progress import ProgressBars

console = Console(highlight=False)
COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help=".nemo of a recognizer (CTC, RNNT or both)")
    parser.add_argument("tests", nargs="+", metavar="TEST", help="manifest of single audio files, or NAME=MANIFEST")
    parser.add_argument("--out", type=Path, help="folder for the results (default: scores/ beside the model)")
    parser.add_argument("--batch-size", type=int, default=16, help="utterances at a time (default 16)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--normalization", choices=STEPS, default="default", help="of references and hypotheses alike")
    parser.add_argument("--worst", type=int, default=5, help="show so many of the worst utterances (default 5)")
    parser.add_argument("--redo", action="store_true", help="also what is there already")
    lm = parser.add_argument_group("language model")
    lm.add_argument("--lm", type=Path, help="n-gram model of words or of the recognizer's tokens, an ARPA file")
    lm.add_argument("--beam-size", type=int, help="hypotheses kept (default: 128 for words, 16 for tokens)")
    lm.add_argument("--alpha", type=float, help="weight of the language model (default: 2 for words, 0.5 for tokens)")
    lm.add_argument("--beta", type=float, help="reward of a word or token (default 1)")
    lm.add_argument("--tune", metavar="DEV", help="choose alpha and beta on this manifest instead")
    lm.add_argument("--alphas", type=float, nargs="+", help="to try")
    lm.add_argument("--betas", type=float, nargs="+", help="to try")
    args = parser.parse_args()
    given = [name for name in ("beam_size", "alpha", "beta", "tune", "alphas", "betas") if getattr(args, name) is not None]
    if given and not args.lm:
        parser.error(f"--{given[0].replace('_', '-')} is for a language model; give --lm")
    if args.tune and (args.alpha is not None or args.beta is not None):
        parser.error("--tune chooses alpha and beta; leave out --alpha and --beta")
    if not args.tune and (args.alphas or args.betas):
        parser.error("--alphas and --betas are for --tune")
    if args.batch_size < 1 or (args.beam_size is not None and args.beam_size < 1):
        parser.error("--batch-size and --beam-size must be 1 or more")
    try:
        torch.empty(1, device=args.device)
    except (RuntimeError, AssertionError) as error:  # the latter where PyTorch was built without CUDA
        parser.error(
            f"--device {args.device} cannot be used ({str(error).splitlines()[0]}); leave it out to take what is there"
        )
    args.out = args.out or args.model.parent / "scores"
    return args


def tuned(run: Scorer, dev: TestSet) -> dict:
    """Chooses the weights on a development set; prints all trials."""
    trials = run.tune(dev)
    chosen = best(trials)
    console.print(tuning_table(trials, f"WER % on {dev.name} ({len(dev.lines)} utterances)"))
    for name in at_the_edge(trials):
        console.print(f"[yellow]Note:[/] the best {name} is at the edge of what was tried; try more with --{name}s")
    console.print(f"Chosen: alpha {chosen.alpha:g}, beta {chosen.beta:g}")
    return run.decoding((chosen.alpha, chosen.beta), dev)


def score_all(run: Scorer, tests: list[TestSet], dev: TestSet | None) -> dict[str, dict]:
    """Scores by the name of the test set, from their files or made now."""
    decoding = tuned(run, dev) if dev else run.decoding()
    results = run.existing_scores(tests, decoding)
    for test in tests:
        if results[test.name] is None:
            results[test.name] = run.score(test, decoding)
        else:
            path = run.result_path(test.name)
            console.print(f"{test.name}: already scored, {path} (--redo decodes it again)", soft_wrap=True)
    return results


def main() -> None:
    args = arguments()
    logging.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*pin_memory")  # of NeMo's loader, on a machine without GPU
    tests = read_test_sets(args.tests)
    dev = read_test_sets([args.tune])[0] if args.tune else None
    if dev:
        check_apart(tests, dev)
    lm = language_model(args.lm, args.beam_size, args.alpha, args.beta, args.alphas, args.betas) if args.lm else None
    with ProgressBars(*COLUMNS, console=console, transient=True) as progress:
        run = Scorer(args.model, args.out, progress, args.device, args.batch_size, args.normalization, args.redo, lm)
        results = score_all(run, tests, dev)

    for found in results.values():
        console.print(details(found, args.worst, console.width))
    console.print(score_table(results, f"{args.model.name}\n{describe_decoding(results[tests[0].name])}"))
    console.print(describe_normalization(list(results.values())))
    if any(0 < len(found["speakers"]) < 20 for found in results.values()):
        console.print("With fewer than 20 speakers the interval over speakers is itself uncertain, mostly too narrow.")
    for test in tests:
        console.print(str(run.result_path(test.name)), soft_wrap=True)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"score.py: {error}")
