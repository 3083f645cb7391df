"""Pages of results: the parts between their markers are drawn from the records of runs, the text around them stays.

A page with the summary of all groups links pages with the details: one for each corpus, and one for the groups without
recognizers.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from experiments.budgets import ROOT
from experiments.drawing.ablation_table import ablation_table
from experiments.drawing.error_tables import (
    RATES,
    difference_table,
    rate_table,
    scored,
    size_of_test_set,
    summary_table,
)
from experiments.drawing.label_tables import cost_table, label_table
from experiments.drawing.pictures import draw_pictures
from experiments.drawing.records import Group
from experiments.drawing.rerun import rerun_text
from experiments.drawing.statistics import SIGNIFICANCE
from nemo_birq.utils.files import write_text

COMMITTED_RESULTS, COMMITTED_PAGE = ROOT / "docs" / "results" / "experiments", ROOT / "docs" / "results.md"
MARKER = re.compile(r"<!-- (begin|end): (.*?) -->")
NO_DATA = "No run has data for this part."
MARKED = """`scripts/draw_results.py` draws everything between the markers from one json file for each run. It keeps the text
outside."""
SUMMARY = {
    "summary": """Word and character error rate (WER, CER) on the test set, mean ± standard deviation over seeds; lower is
better. *t over seeds* is an interval for the mean difference to BEST-RQ. **Bold**: significant by two tests.""",
}
DETAILS = {
    "errors": f"""## Errors of the recognizers

Word and character error rate (WER, CER) on the test set; lower is better. Rates are means ± standard deviations over seeds.
*95 %* is a bootstrap interval that resamples seeds and speakers, or utterances where speakers are not known. It is too
narrow for few seeds. Differences are in percentage points, paired by seed and by utterance. Below zero the first method is
better. *t over seeds* assumes that the differences of the seeds are normal, and ignores the choice of speakers. *p* is that
of a permutation test. It exchanges the two methods speaker by speaker, and ignores the choice of seeds. **Bold**: both tests
are significant (t interval without 0, p < {SIGNIFICANCE}; not corrected for the number of comparisons).""",
    "ablations": """## Ablations

Each row changes one thing of `birq`. *Collapsed*: the normalized entropy of the enhanced labels, in training or in
validation, is below 0.3 at a recorded step after the ramp of their weight.""",
    "labels": """## Labels

PNMI is the share of the information about the phone that the label carries (docs/label_quality.md), beside that of the same
codes in random order, at the end of pretraining. It needs a corpus with phone alignments.""",
    "training": """## Training

A task is learned if its loss is clearly below its unigram entropy, the loss of a predictor that knows the frequencies of the
codes only (docs/reading_the_curves.md).""",
    "rerun": "## Run it again",
}
"""Headings and explanations of the parts on a new page, by the name of their markers."""


def default_page(results: Path) -> Path:
    """Returns the summary of a folder of results: docs/results.md for the committed ones, else ``FOLDER.md`` beside it."""
    results = results.resolve()
    return COMMITTED_PAGE if results == COMMITTED_RESULTS else results.with_name(f"{results.name}.md")


def details_page(group: Group, summary: Path) -> Path:
    """Returns ``<summary>_<corpus>.md``, or ``<summary>_ablations.md`` for a group in which nothing was scored."""
    name = group.corpus if scored(group.methods) else "ablations"
    return summary.with_name(f"{summary.stem}_{name}.md")


def draw_pages(groups: list[Group], summary: Path, on_begin: Callable[[str], None] = lambda name: None) -> list[Path]:
    """Draws the summary, the pages with the details, and pictures in ``pictures/`` beside them.

    A page that does not exist is created, with the parts that have data. On an existing page, the parts that it has markers
    for are drawn.

    Args:
        groups: groups from ``read_groups``.
        summary: Markdown file; the names of all other files follow from its name.
        on_begin: called with the name of each group before it is drawn.

    Returns:
        the written files, pages first.

    Raises:
        ValueError: the markers of an existing page are wrong; nothing is written then.
    """
    kinds = {summary: SUMMARY} | {details_page(group, summary): DETAILS for group in groups}
    texts = {page: page.read_text(encoding="utf-8") for page in kinds if page.is_file()}
    for page, text in texts.items():
        check_markers(text, page, kinds[page])
    blocks: dict[Path, dict[str, list[str]]] = {page: {} for page in kinds}
    pictures = []
    for group in groups:
        on_begin(group.title)
        page = details_page(group, summary)
        found = tables_of(group, page)
        overview = [summary_table(group)]
        for picture, path in draw_pictures(group, summary.parent / "pictures", summary.stem):
            link = f"![{picture.title} {group.title}](pictures/{path.name})"
            found[picture.part].append(link)
            if picture.name == "errors":
                overview.append(link)
            pictures.append(path)
        overview.append(f"[All tables and pictures of these {len(group.records)} runs]({page.name})")
        for shown, parts in ((page, found), (summary, {"summary": overview})):
            for name, lines in parts.items():
                if any(lines):
                    blocks[shown].setdefault(name, []).extend((f"### {group.title}", *filter(None, lines)))
    for page, parts in blocks.items():
        text = texts.get(page) or new_page(page, {name: kinds[page][name] for name in kinds[page] if name in parts})
        for which, name in MARKER.findall(text):
            if which == "begin":
                text = replace_part(text, name, "\n\n".join(parts.get(name, [NO_DATA])))
        write_text(page, text)
    return [*blocks, *pictures]


def new_page(page: Path, parts: dict[str, str]) -> str:
    """Returns the text of a page with a heading and empty markers for each of the parts."""
    marked = (f"{heading}\n\n<!-- begin: {name} -->\n<!-- end: {name} -->" for name, heading in parts.items())
    return "\n\n".join([f"# Results of experiments: {page.stem}", MARKED, *marked]) + "\n"


def tables_of(group: Group, page: Path) -> dict[str, list[str]]:
    """Returns blocks of Markdown for each part of a page with details; blocks without data are empty."""
    rates = rate_table(group)
    warnings = [f"> **Warning:** {warning}" for warning in group.warnings]
    differences = [difference_table(group, rate) for rate in RATES]
    errors = [*warnings, size_of_test_set(group), rates, *differences, _descriptions(group)] if rates else []
    return {
        "errors": errors,
        "ablations": [*([] if rates else warnings), ablation_table(group)],
        "labels": [label_table(group)],
        "training": [cost_table(group)],
        "rerun": [rerun_text(group, page)],
    }


def _descriptions(group: Group) -> str:
    return "\n".join(f"* `{name}`: {records[0].description}" for name, records in group.of("method").items())


def check_markers(text: str, page: Path, parts: Iterable[str]) -> None:
    """Checks that the page has markers, and that each part has one begin and then one end.

    Args:
        text: the text of the page.
        page: its path, for the message.
        parts: names that markers may have.

    Raises:
        ValueError: names the page and the marker.
    """
    found = MARKER.findall(text)
    names = list(dict.fromkeys(name for _, name in found))
    if not names:
        raise ValueError(f"{page} has no markers, so that nothing can be drawn on it; write <!-- begin: PART --> and "
                         f"<!-- end: PART --> for each of {', '.join(parts)}, or move the file")  # fmt: skip
    if unknown := [name for name in names if name not in parts]:
        raise ValueError(f"{page} has a marker for {unknown[0]!r}; the parts of this page are {', '.join(parts)}: "
                         "rename the marker, or move the file")  # fmt: skip
    for name in names:
        for which in ("begin", "end"):
            if found.count((which, name)) != 1:
                raise ValueError(f"{page} has {found.count((which, name))} markers <!-- {which}: {name} -->, it needs one")
    if found != [marker for name in names for marker in (("begin", name), ("end", name))]:
        raise ValueError(f"{page}: each part must end before the next begins; the markers stand in another order")


def replace_part(text: str, name: str, content: str) -> str:
    """Replaces the text between the markers of a part."""
    begin, end = (f"<!-- {which}: {name} -->" for which in ("begin", "end"))
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"
