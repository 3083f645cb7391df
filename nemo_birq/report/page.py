"""Writes the report: one self-contained page with pictures, table and text, and each picture as a PNG beside it."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from nemo_birq.monitoring.metrics import logged_tags
from nemo_birq.report.catalogue import SECTIONS, Line, Picture
from nemo_birq.report.experiment_folder import STATUS, TrainingRun, differences
from nemo_birq.report.pictures import Drawn, colour, draw, is_zero
from nemo_birq.report.quality_pictures import draw_layers, draw_quality_over_time
from nemo_birq.report.table import facts, table
from nemo_birq.utils.colours import RUNS
from nemo_birq.utils.files import complete_file, write_text

PAGE = "index.html"


def write_report(runs: list[TrainingRun], out: Path, progress: Callable[[str], None] = lambda name: None) -> Path:
    """Writes ``index.html`` and a PNG for each picture, and returns the path of the page.

    Args:
        runs: runs to show, in this order.
        out: folder; an older report in it is replaced.
        progress: function that receives the title of each picture before it is drawn.

    Raises:
        ValueError: there are more runs than colours, or ``out`` has an index.html that is not a report.
    """
    if len(runs) > len(RUNS):
        raise ValueError(f"{len(runs)} runs are too many for one picture; compare at most {len(RUNS)}.")
    page = out / PAGE
    if page.exists() and 'content="nemo_birq report"' not in page.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(f"{page} exists and was not written by birq report; choose another --out.")
    sections = []
    for section in SECTIONS:
        drawn, missing, zero = [], [], []
        pictures = (*section.pictures, *other_memory(runs)) if section.name == "memory" else section.pictures
        for picture in pictures:
            progress(picture.title)
            one = draw(picture, runs)
            if one:
                drawn.append(one)
            else:
                (zero if is_zero(picture, runs) else missing).append(picture.title)
        text = section.text if drawn else ""
        found = {"name": section.name, "title": section.title, "text": text}
        sections.append(found | {"drawn": drawn, "missing": missing, "zero": zero})
    progress("Label quality")
    sections.append(_quality(runs))
    for picture in (picture for section in sections for picture in section["drawn"]):
        with complete_file(out / f"{picture.name}.png") as part:
            part.write_bytes(picture.light)
    write_text(page, html(runs, sections))
    return page


def other_memory(runs: list[TrainingRun]) -> list[Picture]:
    """Returns pictures of memory that was logged under other names, such as by Lightning's DeviceStatsMonitor."""
    tags = {tag for run in runs for tag in run.curves if "memory" in tag or tag.endswith("allocated_bytes.all.peak")}
    tags -= logged_tags()
    return [Picture(f"memory_{i}", tag, "as logged", (Line(tag, tag),)) for i, tag in enumerate(sorted(tags))]


def html(runs: list[TrainingRun], sections: list[dict[str, Any]]) -> str:
    """Returns the page as text."""
    environment = Environment(loader=PackageLoader("nemo_birq.report", "."), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters["inline"] = lambda data: base64.b64encode(data).decode("ascii")
    return environment.get_template("page.html.jinja").render(
        runs=[(run, colour(index)) for index, run in enumerate(runs)],
        facts={run.name: facts(run) for run in runs},
        title="BiRQ: " + (runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side"),
        statuses=STATUS,
        sections=sections,
        table=table(runs),
        differences=differences(runs),
    )


def _quality(runs: list[TrainingRun]) -> dict[str, Any]:
    pictures: dict[str, Drawn | None] = {
        "Agreement by layer (birq label-quality measures it)": draw_layers(runs),
        "Agreement over training (birq label-quality-over-training measures it)": draw_quality_over_time(runs),
    }
    text = (
        "PNMI is the share of the phones' entropy that the codes explain. Compare values only at the same number of codes. "
        "Numbers of codes: "
        + "; ".join(f"{run.name} {run.quality[-1].get('num_codes', 'unknown')}" for run in runs if run.quality)
        + "."
    )
    return {
        "name": "quality",
        "title": "Do the labels match the phones?",
        "text": text if any(run.quality for run in runs) else "",
        "drawn": [drawn for drawn in pictures.values() if drawn],
        "missing": [title for title, drawn in pictures.items() if not drawn],
        "zero": [],
    }
