"""Draws tables and pictures from the json files that scripts/experiment.py wrote, on pages in Markdown.

    python scripts/draw_results.py                                              docs/results.md, from the committed results
    python scripts/draw_results.py experiments_out/results                      experiments_out/results.md, from your results
    python scripts/draw_results.py experiments_out/results --out my_results.md

The page is a summary. Beside it, the script writes a page with all tables for each corpus (results_<corpus>.md), a page for
the ablations (results_ablations.md), and the folder pictures/. It creates pages that do not exist. In an existing page, it
rewrites only the text between <!-- begin: NAME --> and <!-- end: NAME -->. The same json files give the same pages.
"""

import argparse
import sys
from pathlib import Path

from experiments.drawing.page import COMMITTED_RESULTS, default_page, draw_pages
from experiments.drawing.records import read_groups
from rich.text import Text

from nemo_birq.utils.terminal import Terminal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=COMMITTED_RESULTS, help="folder with the json file of each "
                        "run, at any depth (default docs/results/experiments)")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="PAGE", help="summary to draw (default: FOLDER.md beside it, and "
                        "docs/results.md for the committed results)")  # fmt: skip
    args = parser.parse_args()
    page = args.out or default_page(args.folder)
    console = Terminal(soft_wrap=True)
    groups = read_groups(args.folder)
    with console.status("drawing") as status:
        written = draw_pages(groups, page, lambda title: status.update(Text(f"drawing {title}")))
    for group in groups:
        console.print(f"{group.title}: {len(group.records)} runs of {len(group.methods)} settings")
        for warning in group.warnings:
            console.print(Text.assemble(("  Warning: ", "yellow"), warning))
    for path in written:
        if path.suffix == ".md":
            console.print(f"{path}")
    console.print(f"{sum(path.suffix == '.png' for path in written)} pictures in {page.parent / 'pictures'}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"draw_results.py: {error}")
