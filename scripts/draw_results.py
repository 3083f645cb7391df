"""Draws docs/results.md: tables and pictures from the json files that scripts/experiment.py wrote.

    python scripts/draw_results.py
    python scripts/draw_results.py runs/results --out my_results.md

Only what stands between <!-- begin: NAME --> and <!-- end: NAME --> is rewritten, and the pictures in pictures/ beside the
page; the text around the markers stays. The same json files give the same page.
"""

import argparse
import sys
from pathlib import Path

from experiments.drawing.page import draw_page
from experiments.drawing.runs import read_groups
from rich.console import Console
from rich.markup import escape

DOCS = Path(__file__).resolve().parents[1] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=DOCS / "results" / "experiments",
                        help="with the json file of each run, at any depth (default docs/results/experiments)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=DOCS / "results.md", help="page with markers (default docs/results.md)")
    args = parser.parse_args()
    console = Console()
    groups = read_groups(args.folder)
    with console.status("drawing") as status:
        written = draw_page(groups, args.out, lambda doing: status.update(f"drawing {doing}"))
    for group in groups:
        console.print(
            f"{group.budget}, {group.corpus}: {len(group.runs)} runs of {len(group.methods)} settings", highlight=False
        )
        for warning in group.warnings:
            console.print(f"  [yellow]Warning:[/] {escape(warning)}", highlight=False)
    for path in written:
        console.print(str(path), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"draw_results.py: {error}")
