"""``birq report``: one page from the folders of runs."""

from pathlib import Path

from nemo_birq.command_line import options
from nemo_birq.command_line.command import command
from nemo_birq.utils.progress import ProgressBars
from nemo_birq.utils.terminal import Terminal


@command("report")
@options.argument("runs", "folder of a run, or NAME=FOLDER", nargs=-1, required=True, metavar="RUN...")
@options.out_option("Folder for the page.", default=Path("report"))
def report(runs: tuple[str, ...], out: Path) -> None:
    """Draws one page with pictures and a table from a run's folder, or from several to compare.

        birq report nemo_experiments/BiRQ-Conformer-Large --out report
        birq report default=runs/a/BiRQ paper=runs/b/BiRQ --out report

    Writes index.html, which needs no other file, and its pictures as PNG. docs/report.md explains the page.
    """
    from nemo_birq.report.experiment_folder import read_runs
    from nemo_birq.report.page import write_report

    console = Terminal()
    with ProgressBars(console=console, transient=True) as progress:
        advance = progress.start("reading")
        found = read_runs(list(runs))
        page = write_report(found, out, lambda title: advance(0, f"drawing: {title}"))
    for run in found:
        console.print(f"{run.name}: {run.steps} steps, {len(run.alarms)} alarm(s)")
        for note in run.notes:
            console.print(f"  Note: {note}", soft_wrap=True)
    console.print(f"page      {page}\npictures  {page.parent}/*.png", soft_wrap=True)
