"""The pages of results in docs/ are the output of scripts/draw_results.py for the committed records."""

import re
import shutil
from pathlib import Path

import pytest
from experiments.drawing.page import COMMITTED_PAGE, COMMITTED_RESULTS, default_page, draw_pages
from experiments.drawing.records import read_groups

pytestmark = pytest.mark.integration
DOCS = COMMITTED_PAGE.parent


def test_the_committed_pages_are_drawn_from_the_committed_records(tmp_path: Path):
    assert default_page(COMMITTED_RESULTS) == COMMITTED_PAGE
    committed = {path.name: path.read_text(encoding="utf-8") for path in DOCS.glob("results*.md")}
    for name in committed:
        shutil.copy(DOCS / name, tmp_path)
    (tmp_path / "results").symlink_to(DOCS / "results")  # pages name the folder of the records relative to themselves
    draw_pages(read_groups(tmp_path / "results" / "experiments"), tmp_path / "results.md")
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("results*.md")}
    assert drawn == committed
    linked = {name for text in drawn.values() for name in re.findall(r"\]\(pictures/(.*?\.png)\)", text)}
    assert linked == {path.name for path in (tmp_path / "pictures").iterdir()}
    assert linked == {path.name for path in (DOCS / "pictures").glob("results_*.png")}
