"""Entry points of commands that are scripts of the checkout instead of subcommands of birq."""

import runpy
import sys

from benchmarks.reliability.fuzzing.good_files import ROOT


def draw_results() -> None:
    """Runs scripts/draw_results.py."""
    sys.path.insert(0, str(ROOT / "scripts"))
    runpy.run_path(str(ROOT / "scripts" / "draw_results.py"), run_name="__main__")
