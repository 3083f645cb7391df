"""Page of results: the parts between its markers are drawn from the records of runs, the text around them stays."""

import re
from collections.abc import Callable
from pathlib import Path

from experiments.budgets import ROOT
from experiments.drawing.ablation_table import ablation_table
from experiments.drawing.error_tables import RATES, column_notes, difference_table, rate_table
from experiments.drawing.label_tables import cost_table, label_table
from experiments.drawing.pictures import draw_pictures
from experiments.drawing.records import Group
from experiments.drawing.rerun import rerun_text
from nemo_birq.utils.files import write_text

COMMITTED_RESULTS, COMMITTED_PAGE = ROOT / "docs" / "results" / "experiments", ROOT / "docs" / "results.md"
MARKER = re.compile(r"<!-- (begin|end): (.*?) -->")
INTRODUCTION = """# Results of experiments

`scripts/draw_results.py` draws everything between the markers from one json file for each run. It keeps the text outside."""
PARTS = {
    "errors": """## Errors of the recognizers

Word and character error rate (WER, CER) on the test set; lower is better. With few seeds the bootstrap interval is too
narrow; read the t interval over seeds too.""",
    "labels": """## Labels

PNMI is the share of the information about the phone that the label carries (docs/label_quality.md), beside that of the same
codes in random order, at the end of pretraining. It needs a corpus with phone alignments.""",
    "training": """## Training

A task is learned if its loss is clearly below its unigram entropy, the loss of a predictor that knows the frequencies of the
codes only (docs/reading_the_curves.md).""",
    "ablations": """## Ablations

Each row changes one thing of `birq`. *Collapsed*: the normalized entropy of the enhanced labels, in training or in
validation, is below 0.3 at a recorded step after the ramp of their weight.""",
    "rerun": "## Run it again",
}
"""Headings and explanations of the parts on a new page, by the name of their markers."""


def default_page(results: Path) -> Path:
    """Returns the page of a folder of results: docs/results.md for the committed ones, else ``FOLDER.md`` beside it."""
    results = results.resolve()
    return COMMITTED_PAGE if results == COMMITTED_RESULTS else results.with_name(f"{results.name}.md")


def draw_page(groups: list[Group], page: Path, on_begin: Callable[[str], None] = lambda name: None) -> list[Path]:
    """Draws the parts of a page, and pictures in ``pictures/`` beside it. A page that does not exist is created.

    Args:
        groups: groups from ``read_groups``.
        page: Markdown file, with markers for the begin and the end of each of ``PARTS`` if it exists.
        on_begin: called with the name of each group before it is drawn.

    Returns:
        the written files.

    Raises:
        ValueError: the markers of an existing page are wrong; nothing is written then.
    """
    text = page.read_text(encoding="utf-8") if page.is_file() else new_page()
    check_markers(text, page)
    parts: dict[str, list[str]] = {name: [] for name in PARTS}
    pictures = []
    for group in groups:
        on_begin(group.title)
        blocks = tables_of(group)
        for picture, path in draw_pictures(group, page.parent / "pictures", page.stem):
            blocks[picture.part].append(f"![{picture.title} {group.title}](pictures/{path.name})")
            pictures.append(path)
        for name, found in blocks.items():
            if any(found):
                parts[name] += [f"### {group.title}", *filter(None, found)]
    for name, found in parts.items():
        text = replace_part(text, name, "\n\n".join(found) or "No run has data for this part.")
    write_text(page, text)
    return [page, *pictures]


def new_page() -> str:
    """Returns the text of a page with a heading and empty markers for each part."""
    parts = (f"{heading}\n\n<!-- begin: {name} -->\n<!-- end: {name} -->" for name, heading in PARTS.items())
    return "\n\n".join([INTRODUCTION, *parts]) + "\n"


def tables_of(group: Group) -> dict[str, list[str]]:
    """Returns blocks of Markdown for each part; blocks without data are empty."""
    rates = rate_table(group)
    warnings = [f"> **Warning:** {warning}" for warning in group.warnings]
    differences = [difference_table(group, rate) for rate in RATES]
    return {
        "errors": [*warnings, rates, *differences, *([column_notes(group), _descriptions(group)] if rates else [])],
        "labels": [label_table(group)],
        "training": [cost_table(group)],
        "ablations": [ablation_table(group)],
        "rerun": [rerun_text(group)],
    }


def _descriptions(group: Group) -> str:
    return "\n".join(f"* `{name}`: {records[0].description}" for name, records in group.of("method").items())


def check_markers(text: str, page: Path) -> None:
    """Checks that every part has one begin and then one end, and that there are no other markers.

    Raises:
        ValueError: names the page and the marker.
    """
    found = MARKER.findall(text)
    for name in PARTS:
        for which in ("begin", "end"):
            if found.count((which, name)) != 1:
                raise ValueError(f"{page} has {found.count((which, name))} markers <!-- {which}: {name} -->, it needs one")
    order = [marker for name in dict.fromkeys(name for _, name in found) for marker in (("begin", name), ("end", name))]
    if unknown := [name for _, name in found if name not in PARTS]:
        raise ValueError(f"{page} has a marker for {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    if found != order:
        raise ValueError(f"{page}: each part must end before the next begins; the markers stand in another order")


def replace_part(text: str, name: str, content: str) -> str:
    """Replaces the text between the markers of a part."""
    begin, end = (f"<!-- {which}: {name} -->" for which in ("begin", "end"))
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"
