"""docs/results.md: what stands between its markers is drawn from the runs, the text around them is left alone."""

import re
from collections.abc import Callable
from pathlib import Path

from experiments.drawing.ablation_table import ablation_table
from experiments.drawing.error_tables import RATES, difference_table, how_sure, rate_table
from experiments.drawing.label_tables import cost_table, label_table
from experiments.drawing.pictures import draw_pictures
from experiments.drawing.rerun import rerun_text
from experiments.drawing.runs import Group
from nemo_birq.utils.files import write_text

ERRORS, LABELS, TRAINING, ABLATIONS, RERUN = PARTS = ("errors", "labels", "training", "ablations", "rerun")
MARKER = re.compile(r"<!-- (begin|end): (.*?) -->")


def draw_page(groups: list[Group], page: Path, advance: Callable[[str], None] = lambda doing: None) -> list[Path]:
    """Rewrites the parts of a page, and the pictures in ``pictures/`` beside it.

    Args:
        groups: of ``read_groups``.
        page: with a marker for the begin and the end of each of ``PARTS``.
        advance: is told what comes next.

    Returns:
        what was written.

    Raises:
        FileNotFoundError: there is no such page.
        ValueError: its markers are not right; nothing is written then.
    """
    if not page.is_file():
        raise FileNotFoundError(f"{page} does not exist; make one with markers <!-- begin: NAME --> and <!-- end: NAME --> "
                                f"for {', '.join(PARTS)}")  # fmt: skip
    text = page.read_text(encoding="utf-8")
    check_markers(text, page)
    parts: dict[str, list[str]] = {name: [] for name in PARTS}
    written = []
    for group in groups:
        advance(f"{group.budget}, {group.corpus}: tables")
        blocks = tables_of(group)
        advance(f"{group.budget}, {group.corpus}: pictures")
        for picture, path in draw_pictures(group, page.parent / "pictures"):
            blocks[picture.part].append(f"![{picture.title} {group.budget}, {group.corpus}](pictures/{path.name})")
            written.append(path)
        for name, found in blocks.items():
            if any(found):
                parts[name] += [f"### {group.budget}, {group.corpus}", *(block for block in found if block)]
    for name, blocks in parts.items():
        text = replace_part(text, name, "\n\n".join(blocks) or "No run tells anything about this.")
    write_text(page, text)
    return [page, *written]


def tables_of(group: Group) -> dict[str, list[str]]:
    """Blocks of Markdown for each part; empty ones where the runs know nothing of it."""
    rates = rate_table(group)
    warnings = [f"> **Warning:** {warning}" for warning in group.warnings]
    differences = [difference_table(group, rate) for rate in RATES]
    return {
        ERRORS: [*warnings, rates, *differences, *([how_sure(group), _methods(group)] if rates else [])],
        LABELS: [label_table(group)],
        TRAINING: [cost_table(group)],
        ABLATIONS: [ablation_table(group)],
        RERUN: [rerun_text(group)],
    }


def _methods(group: Group) -> str:
    return "\n".join(f"* `{name}`: {runs[0].content['description']}" for name, runs in group.of("method").items())


def check_markers(text: str, page: Path) -> None:
    """Every part has a begin and then an end, once, and there are no others.

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
        raise ValueError(f"{page} has a marker for {unknown[0]!r}; what can be drawn is {', '.join(PARTS)}")
    if found != order:
        raise ValueError(f"{page}: each part must end before the next begins; the markers stand in another order")


def replace_part(text: str, name: str, content: str) -> str:
    """The text with other content between the markers of a part."""
    begin, end = (f"<!-- {which}: {name} -->" for which in ("begin", "end"))
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"
