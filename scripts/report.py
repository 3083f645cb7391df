"""Draws one page with pictures and a table from the folders of runs.

    python scripts/report.py nemo_experiments/BiRQ-Conformer-Large --out report

The same as ``birq report``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.report.command import report

if __name__ == "__main__":
    run_script(report, __file__)
