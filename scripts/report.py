"""Writes one page with the curves, alarms and last values of a run, or of several runs side by side.

    python scripts/report.py nemo_experiments/BiRQ-Conformer-Large --out report
    python scripts/report.py default=runs/a/BiRQ paper=runs/b/BiRQ --out report

The page is index.html, which needs no other file; its pictures are PNG files beside it. docs/report.md describes it.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from nemo_birq.report.experiment_folder import read_runs
from nemo_birq.report.page import write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder that exp_manager made, or NAME=FOLDER")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder for the page (default report)")
    args = parser.parse_args()
    console = Console()
    try:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("reading", total=None)
            runs = read_runs(args.runs)
            page = write_report(runs, args.out, lambda title: progress.update(task, description=f"drawing: {title}"))
    except ValueError as error:
        sys.exit(str(error))
    for run in runs:
        console.print(f"{run.name}: {run.steps} steps, {len(run.alarms)} alarm(s)", highlight=False)
    console.print(f"page      {page}\npictures  {page.parent}/*.png", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
