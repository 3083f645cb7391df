"""Compares methods of pretraining: budget x corpus x method x seed, one json file a run.

    python scripts/experiment.py --budget smoke
    python scripts/experiment.py --budget cpu --corpus synthetic=/data/big --out runs --jobs 2
    python scripts/experiment.py --budget cpu --corpus speechocean762=/data/so762 --only birq best_rq --seeds 0 1 2 --list

Each run pretrains, looks at the labels, fine-tunes with few labels and scores, by the scripts of this folder, whose commands
stand in the json. The same command again goes on where it was interrupted; runs that are done are left alone.
conf/experiments/ holds budgets, methods and corpora; docs/experiments.md explains them.
"""

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from experiments.budgets import ROOT, Budget, Setting, budget_names, expand, read_budget
from experiments.corpora import open_corpus
from experiments.execution import claim, prepare_folder
from experiments.resources import Estimate, estimate, lacks_gpus, misfits, run_seconds
from experiments.results import cores, stages_done, state
from experiments.stages import Run, make_run
from experiments.sweep import Sweep
from nemo.utils import logging
from rich.console import Console
from rich.table import Table

console = Console()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", required=True, help=f"{', '.join(budget_names())}, or a yaml file of that form")
    parser.add_argument("--corpus", help="NAME=FOLDER, or NAME where it is in this repository (default: the budget's)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these methods and ablations (default: all); also the "
                        "words methods and ablations")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, metavar="K", help="in place of the budget's")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments_out", help="folder for logs, curves and .nemo files "
                        "(default experiments_out)")  # fmt: skip
    parser.add_argument("--results", type=Path, default=ROOT / "docs/results/experiments", help="folder for the json files "
                        "(default docs/results/experiments)")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; they share the processor's cores (default 1)")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints of pretraining, too")
    parser.add_argument("--overwrite", action="store_true", help="begin runs of another setting anew, and lose them")
    parser.add_argument("--force", action="store_true", help="go on although it does not fit this machine")
    parser.add_argument("--list", action="store_true", help="print the runs, their state and an estimate, and do nothing")
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error("--jobs: at least 1")
    return args


def listing(runs: list[Run], states: dict[Run, str], needs: Estimate, args: argparse.Namespace) -> Table:
    """What there is to do."""
    table = Table(title=f"budget {runs[0].setting.budget}, corpus {runs[0].corpus.name}", header_style="bold")
    for column in ("run", "kind", "state", "about"):
        table.add_column(column)
    for run in runs:
        done = stages_done(run, args.out / run.place)
        how = f"{states[run]}, {done} of {len(run.stages)} stages" if states[run] == "partial" else states[run]
        about = "" if states[run] == "done" else f"{run_seconds(run, needs.step_seconds) / 60:.0f} min"
        table.add_row(run.setting.run_name, run.setting.kind, how, about)
    return table


def duration(hours: float) -> str:
    """For people."""
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


def refuse(args: argparse.Namespace, budget: Budget, settings: list[Setting]) -> None:
    """Says what a budget needs that this machine has no GPUs for; the corpus need not be there.

    Raises:
        ValueError: always.
    """
    corpus = open_corpus("embedded")  # any will do: the model and the steps are the budget's
    runs = [make_run(setting, corpus) for setting in settings]
    with console.status("timing a few steps of the model on noise"), TemporaryDirectory() as folder:
        needs = estimate(runs, 1, Path(folder) / "estimate.json")
    there = torch.cuda.device_count()
    raise ValueError(
        f"--budget {args.budget} ({budget.description}) needs {budget.gpus} GPU(s) with about {needs.memory_gb:.0f} GB of "
        f"memory each, and {there} are there. Without, its {len(runs)} runs would take about {needs.hours:,.0f} h here. "
        f"What fits: --budget {'gpu' if there else 'cpu'}. --force goes on nevertheless."
    )


def main() -> int:
    args = arguments()
    logging.setLevel(logging.ERROR)
    budget = read_budget(args.budget)
    settings = expand(args.budget, budget, args.only, args.seeds)
    if lacks_gpus(budget) and not args.force:
        refuse(args, budget, settings)
    if not args.corpus and not budget.corpus:
        raise ValueError(f"--budget {args.budget} says no corpus; give --corpus NAME=FOLDER")
    corpus = open_corpus(args.corpus or budget.corpus, budget.labelled_hours)
    runs = [make_run(setting, corpus) for setting in settings]
    args.out, args.results = args.out.resolve(), args.results.resolve()
    states = {run: state(run, args.out / run.place, args.results / run.file) for run in runs}
    left = [run for run in runs if states[run] != "done"]
    for folder in (args.out, args.results):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written to; give another --out or --results")

    with console.status("timing a few steps of the model on noise"):
        needs = estimate(left or runs, args.jobs, args.out / "estimate.json")
    misfit = misfits(budget, needs, left, args.jobs, args.out) if left else []
    if args.list:
        console.print(listing(runs, states, needs, args))
    console.print(
        f"{len(left)} of {len(runs)} runs to do, {args.jobs} at a time: about {duration(needs.hours if left else 0.0)}, "
        f"{needs.memory_gb:.1f} GB of memory a run, {needs.disk_gb:.1f} GB of disk; {needs.parameters / 1e6:.1f} M "
        f"parameters, {needs.step_seconds:.2f} s a step, {corpus.hours:.2f} h of audio, {corpus.labelled.hours:.2f} h of it "
        "with texts",
        highlight=False,
        soft_wrap=True,
    )
    if misfit and not args.force:
        again = "" if args.list else " --force goes on nevertheless."
        raise ValueError(f"--budget {args.budget} does not fit this machine: " + "; ".join(misfit) + "." + again)
    if args.list:
        return 0
    others = [run for run in left if states[run] == "other setting"]
    if others and not args.overwrite:
        named = ", ".join(str(args.results / run.file) for run in others)
        raise ValueError(f"made with another setting: {named}; give another --results, or --overwrite to replace them")
    sweep = Sweep(args.out, args.results, args.jobs, max(1, cores() // args.jobs), args.keep, console)
    with ExitStack() as claimed:
        for run in left:
            claimed.enter_context(claim(args.out / run.place))
        for run in left:
            prepare_folder(run, args.out / run.place, args.overwrite)
        failed = sweep.execute(left)
    console.print(f"{len(left) - len(failed)} runs done, {len(failed)} failed, {len(runs) - len(left)} were done before")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(f"experiment.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
