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
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from nemo.collections.asr.models import ASRModel
from nemo.utils import logging
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nemo_birq.scoring.arpa import read_arpa
from nemo_birq.scoring.beam_search import BeamSearch, kind_of, open_beam_search
from nemo_birq.scoring.normalization import STEPS
from nemo_birq.scoring.pictures import draw_score
from nemo_birq.scoring.recognizers import check_ctc, check_recognizer, open_recognizer, use_ctc
from nemo_birq.scoring.record import fingerprint, finished, made_from
from nemo_birq.scoring.results import score, write_score
from nemo_birq.scoring.tables import aligned, group_table, score_table, tuning_table, worst
from nemo_birq.scoring.test_sets import TestSet, read_test_sets
from nemo_birq.scoring.transcription import outputs
from nemo_birq.scoring.tuning import Trial, at_the_edge, best, tune

console = Console()


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
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda: there is none; leave it out to run on the CPU")
    args.out = args.out or args.model.parent / "scores"
    return args


def complete(args: argparse.Namespace) -> None:
    """Puts in what was not given for the language model, by its kind."""
    kind = kind_of(read_arpa(args.lm))
    args.beam_size = args.beam_size or kind.beam_size
    args.alpha, args.beta = (
        first if given is None else given for given, first in zip((args.alpha, args.beta), kind.weights, strict=True)
    )
    args.alphas, args.betas = args.alphas or kind.grid[0], args.betas or kind.grid[1]


@dataclass
class Recognizer:
    """The model and its beam search, opened when first needed: a score that is there already needs neither."""

    args: argparse.Namespace
    model: ASRModel | None = None
    beam: BeamSearch | None = None

    def open(self) -> tuple[ASRModel, BeamSearch | None]:
        if self.model is None:
            with console.status(f"opening {self.args.model}"):
                self.model = open_recognizer(self.args.model, self.args.device)
                if self.args.lm:
                    use_ctc(self.model)
                    self.beam = open_beam_search(self.args.lm, self.model, self.args.beam_size)
        return self.model, self.beam

    def set_weights(self, decoding: dict) -> None:
        if self.beam:
            self.beam.set_weights(decoding["alpha"], decoding["beta"])


def progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def result_path(args: argparse.Namespace, name: str) -> Path:
    return args.out / f"{args.model.stem}_{name}_{args.lm.stem if args.lm else 'greedy'}.json"


def choose_weights(args: argparse.Namespace, dev: TestSet, recognizer: Recognizer) -> dict:
    """Tries the grid on the development set, or takes the trials of a former run; prints them."""
    path = result_path(args, f"tuning_{dev.name}")
    grid = {"lm": fingerprint(args.lm), "beam_size": args.beam_size, "alphas": args.alphas, "betas": args.betas}
    made = made_from(args.model, dev.manifest, grid, args.normalization)
    found = finished(path, made, args.redo)
    if found is None:
        model, beam = recognizer.open()
        with progress() as bar:
            heard = bar.add_task(f"{dev.name}: model", total=len(dev.lines))
            found_outputs = outputs(model, dev.manifest, dev.lines, args.batch_size, lambda done: bar.advance(heard, done))
            tried = bar.add_task(f"{dev.name}: pairs of weights", total=len(args.alphas) * len(args.betas))
            trials = tune(
                beam,
                dev.lines,
                found_outputs,
                args.alphas,
                args.betas,
                args.normalization,
                lambda done: bar.advance(tried, done),
            )
        found = {"made_from": made, "manifest": str(dev.manifest), "trials": [asdict(trial) for trial in trials]}
        write_score(found, path)
    trials = [Trial(**trial) for trial in found["trials"]]
    console.print(tuning_table(trials, f"WER % on {dev.name} ({len(dev.lines)} utterances)"))
    chosen = best(trials)
    for name in at_the_edge(trials):
        console.print(f"[yellow]Note:[/] the best {name} is at the edge of what was tried; try more with --{name}s")
    console.print(f"Chosen: alpha {chosen.alpha:g}, beta {chosen.beta:g}", highlight=False)
    return {"alpha": chosen.alpha, "beta": chosen.beta}


def decoding_of(args: argparse.Namespace, dev: TestSet | None, recognizer: Recognizer) -> dict:
    """How the test sets are decoded, for the record."""
    if not args.lm:
        return {"search": "greedy"}
    if dev:
        weights = choose_weights(args, dev, recognizer) | {"tuned_on": fingerprint(dev.manifest)}
    else:
        weights = {"alpha": args.alpha, "beta": args.beta}
    return {"search": "beam", "lm": fingerprint(args.lm), "beam_size": args.beam_size} | weights


def score_all(args: argparse.Namespace, tests: list[TestSet], decoding: dict, recognizer: Recognizer) -> dict[str, dict]:
    """Scores by the name of the test set, from their files or made now."""
    made = {test.name: made_from(args.model, test.manifest, decoding, args.normalization) for test in tests}
    found = {test.name: finished(result_path(args, test.name), made[test.name], args.redo) for test in tests}
    for test in tests:
        if found[test.name] is None:
            found[test.name] = score_one(args, test, made[test.name], recognizer)
        else:
            path = result_path(args, test.name)
            console.print(f"{test.name}: already scored, {path} (--redo decodes it again)", soft_wrap=True, highlight=False)
    return found


def score_one(args: argparse.Namespace, test: TestSet, made: dict, recognizer: Recognizer) -> dict:
    """Decodes and scores; writes file and picture."""
    model, beam = recognizer.open()
    recognizer.set_weights(made["decoding"])
    with progress() as bar:
        task = bar.add_task(test.name, total=len(test.lines))
        found = score(model, test.manifest, args.batch_size, beam, args.normalization, lambda done: bar.advance(task, done))
    about = {"model": str(args.model), "name": test.name, "made_from": made}
    about["decoding"] = beam.about if beam else f"{model.cfg.decoding.strategy}, {type(model).__name__}"
    found = about | found
    path = result_path(args, test.name)
    write_score(found, path)
    if found["lengths"] or found["speakers"]:
        draw_score(found, f"{args.model.stem} on {test.name}\n{how(found)}", path.with_suffix(".png"))
    return found


def how(found: dict) -> str:
    """The decoding in words."""
    made = found["made_from"]["decoding"]
    return found["decoding"] + (f", alpha {made['alpha']:g}, beta {made['beta']:g}" if "alpha" in made else "")


def show(found: dict, number: int) -> None:
    """Groups, notes and the worst utterances of one test set."""
    for key, title in (("lengths", "by duration"), ("speakers", "by speaker, the worst first")):
        groups = sorted(found[key], key=lambda group: -(group["wer"] or 0)) if key == "speakers" else found[key]
        if groups:
            console.print(group_table(groups, f"{found['name']}, {title}"))
    if found["unwritable"]:
        signs = ", ".join(f"{sign!r} {count} times" for sign, count in list(found["unwritable"].items())[:8])
        console.print(f"[yellow]Note:[/] the model has no token for {signs} in the references of {found['name']}")
    wrong = worst(found["utterances"], number)
    if wrong:
        console.print(
            f"\n[bold]{found['name']}, the worst utterances[/] ([yellow]substituted[/], [red]left out[/], [cyan]inserted[/])"
        )
    for utterance in wrong:
        title = f"{utterance['audio_filepath']}, {utterance['errors']} errors"
        console.print(title, style="dim", highlight=False, markup=False)
        console.print(aligned(utterance["reference_scored"], utterance["hypothesis_scored"], console.width))


def main() -> None:
    args = arguments()
    logging.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*pin_memory")  # of NeMo's loader, on a machine without GPU
    tests = read_test_sets(args.tests)
    dev = read_test_sets([args.tune])[0] if args.tune else None
    for test in tests:
        if dev and fingerprint(test.manifest) == fingerprint(dev.manifest):
            raise ValueError(f"{test.manifest} would be tuned and tested on; give a development set to --tune")
    kind = check_recognizer(args.model)
    if args.lm:
        check_ctc(kind)
        complete(args)
    recognizer = Recognizer(args)
    decoding = decoding_of(args, dev, recognizer)
    results = score_all(args, tests, decoding, recognizer)

    for found in results.values():
        show(found, args.worst)
    first = next(iter(results.values()))
    console.print(score_table(results, f"{args.model.name}\n{how(first)}"))
    rules = first["normalization"]
    changed = " and ".join(
        f"{sum(found['normalization'][f'{side}_changed'] for found in results.values())} {side}"
        for side in ("references", "hypotheses")
    )
    console.print(f"References and hypotheses alike: {'; '.join(rules['steps'])}. That changed {changed}.", highlight=False)
    if any(len(found["speakers"]) and len(found["speakers"]) < 20 for found in results.values()):
        console.print("With fewer than 20 speakers the interval over speakers is itself uncertain, mostly too narrow.")
    for test in tests:
        console.print(str(result_path(args, test.name)), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError, ImportError) as error:
        sys.exit(f"score.py: {error}")
