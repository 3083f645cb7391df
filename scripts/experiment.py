"""Compares methods of pretraining: budget x corpus x method x seed, one json file for each run.

    python scripts/experiment.py --budget smoke
    python scripts/experiment.py --budget cpu --corpus synthetic=/data/big --jobs 2 --list
    python scripts/experiment.py --budget cpu --corpus speechocean762=/data/so762 --only birq best_rq --seeds 0 1 2

Each run pretrains, measures label quality, fine-tunes on the labelled part and scores the test set, with the scripts of this
folder; the json file has the commands. The same command resumes an interrupted sweep and skips finished runs.
scripts/draw_results.py draws the results. docs/experiments.md explains budgets, methods and corpora (conf/experiments/).
"""

import argparse
import os
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path

import torch
from experiments.budgets import ROOT, Budget, Setting, budget_names, expand, read_budget
from experiments.corpora import open_corpus
from experiments.drawing.markdown import duration
from experiments.drawing.page import COMMITTED_RESULTS, default_page
from experiments.execution import lock_folder, prepare_folder
from experiments.resources import Estimate, estimate, find_problems, run_seconds
from experiments.results import cores, stages_done, state
from experiments.stages import RunPlan, plan_run, start
from experiments.sweep import Sweep
from nemo.utils import logging
from rich.table import Table

from nemo_birq.utils.terminal import Terminal

console = Terminal(soft_wrap=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", required=True, help=f"{', '.join(budget_names())}, or a yaml file of that form")
    parser.add_argument("--corpus", help="NAME=FOLDER, or NAME for a corpus in this repository (default: the budget's)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="methods and ablations to run, also the words methods and "
                        "ablations (default: all)")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, metavar="K", help="seeds to run (default: the budget's)")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments_out", help="folder for logs, curves and .nemo files "
                        "(default experiments_out)")  # fmt: skip
    parser.add_argument("--results", type=Path, help="folder for the json files (default: results in --out)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the processor's cores (default 1)")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints of pretraining")
    parser.add_argument("--overwrite", action="store_true", help="delete runs of another setting and start them again")
    parser.add_argument("--force", action="store_true", help="run a budget that does not fit this machine")
    parser.add_argument("--list", action="store_true", help="print the runs, their state and an estimate, and stop")
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: at least 1")
    args.out = args.out.resolve()
    args.results = (args.results or args.out / "results").resolve()
    return args


def main() -> int:
    args = arguments()
    logging.setLevel(logging.ERROR)
    budget = read_budget(args.budget)
    settings = expand(args.budget, budget, args.only, args.seeds)
    if torch.cuda.device_count() < budget.gpus and not args.force:
        raise ValueError(lack_of_gpus(args.budget, budget, settings))
    if not args.corpus and not budget.corpus:
        raise ValueError(f"--budget {args.budget} names no corpus; give --corpus NAME=FOLDER")
    corpus = open_corpus(args.corpus or budget.corpus, budget.labelled_hours)
    runs = [plan_run(setting, corpus) for setting in settings]
    states = {run: state(run, args.out / run.folder, args.results / run.result_file) for run in runs}
    left = [run for run in runs if states[run] != "done"]
    check_starts(left, args.out)
    for folder in (args.out, args.results):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} is not writable; give another --out or --results")

    with console.status("timing a few steps of the model on noise"):
        needs = estimate(left or runs, args.jobs, args.out / "estimate.json")
    if args.list:
        console.print(listing(runs, states, needs, args))
    seconds = 3600 * needs.hours if left else 0.0
    console.print(
        f"{len(left)} of {len(runs)} runs to do, {args.jobs} at a time: about {duration(seconds)}, "
        f"{needs.memory_gb:.1f} GB of memory a run, {needs.disk_gb:.1f} GB of disk; {needs.parameters / 1e6:.1f} M "
        f"parameters, {needs.step_seconds:.2f} s a step, {corpus.hours:.2f} h of audio, {corpus.labelled.hours:.2f} h of it "
        "with texts"
    )
    problems = find_problems(budget, needs, left, args.jobs, args.out) if left else []
    if problems and not args.force:
        again = "" if args.list else " --force runs it all the same."
        raise ValueError(f"--budget {args.budget} does not fit this machine: " + "; ".join(problems) + "." + again)
    if args.list:
        return 0
    others = [str(args.results / run.result_file) for run in left if states[run] == "other setting"]
    if others and not args.overwrite:
        listed = ", ".join(others)
        raise ValueError(f"made with another setting: {listed}; give another --results, or --overwrite to replace them")
    failed = execute(left, args)
    console.print(f"{len(left) - len(failed)} runs done, {len(failed)} failed, {len(runs) - len(left)} were done before")
    if len(failed) < len(runs):
        console.print(f"Draw tables and pictures of all results, to {shown(default_page(args.results))}:")
        console.print(f"    {draw_command(args.results)}")
    return 1 if failed else 0


def check_starts(runs: list[RunPlan], out: Path) -> None:
    """Checks that the runs exist whose models others begin with (``begins_from``)."""
    for run in (run for run in runs if run.setting.method.begins_from):
        setting, source = run.setting, (out / run.folder / start(run.setting)).resolve()
        if not source.is_file():
            budget, corpus, method = setting.method.begins_from.split("/")
            raise FileNotFoundError(
                f"{setting.run_name} begins with {source}, which is missing: run --budget {budget} --corpus {corpus}=FOLDER "
                f"--only {method} --seeds {setting.seed} first, with the same --out"
            )


def lack_of_gpus(name: str, budget: Budget, settings: list[Setting]) -> str:
    """Describes the needs of a budget that this machine has too few GPUs for; its corpus need not exist."""
    corpus = open_corpus("embedded")  # any corpus: the model and the steps are the budget's
    runs = [plan_run(setting, corpus) for setting in settings]
    with console.status("timing a few steps of the model on noise"):
        needs = estimate(runs, 1)
    available = torch.cuda.device_count()
    return (
        f"--budget {name} ({budget.description}) needs {budget.gpus} GPU(s) with about {needs.memory_gb:.0f} GB of memory "
        f"each, and this machine has {available}. Its {len(runs)} runs would take about {needs.hours:,.0f} h here. "
        f"Take --budget {'gpu' if available else 'cpu'}, or --force to run it all the same."
    )


def listing(runs: list[RunPlan], states: dict[RunPlan, str], needs: Estimate, args: argparse.Namespace) -> Table:
    """Lists the runs with their states."""
    table = Table(title=f"budget {runs[0].setting.budget}, corpus {runs[0].corpus.name}", header_style="bold")
    for column in ("run", "kind", "state", "about"):
        table.add_column(column)
    for run in runs:
        done = stages_done(run, args.out / run.folder)
        how = f"{states[run]}, {done} of {len(run.stages)} stages" if states[run] == "partial" else states[run]
        about = "" if states[run] == "done" else duration(run_seconds(run, needs.step_seconds))
        table.add_row(run.name, run.setting.kind, how, about)
    return table


def execute(runs: list[RunPlan], args: argparse.Namespace) -> list[RunPlan]:
    """Executes runs in locked folders and returns those that failed."""
    sweep = Sweep(args.out, args.results, args.jobs, max(1, cores() // args.jobs), args.keep, console)
    with ExitStack() as locks:
        for run in runs:
            locks.enter_context(lock_folder(args.out / run.folder))
        for run in runs:
            prepare_folder(run, args.out / run.folder, args.overwrite)
        return sweep.execute(runs)


def draw_command(results: Path) -> str:
    """Returns the command that draws a folder of results."""
    command = ["python", shown(ROOT / "scripts" / "draw_results.py")]
    return shlex.join(command if results == COMMITTED_RESULTS else [*command, shown(results)])


def shown(path: Path) -> str:
    """Returns a path relative to the working directory if it lies below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(f"experiment.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
