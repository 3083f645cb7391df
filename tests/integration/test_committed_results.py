"""docs/results.md is what scripts/draw_results.py draws from the committed records."""

import re
import shutil
from pathlib import Path

import pytest
from experiments.drawing.page import COMMITTED_PAGE, COMMITTED_RESULTS, default_page, draw_page
from experiments.drawing.records import read_groups

pytestmark = pytest.mark.integration


def test_the_committed_page_is_drawn_from_the_committed_records(tmp_path: Path):
    assert default_page(COMMITTED_RESULTS) == COMMITTED_PAGE
    page = tmp_path / "results.md"
    shutil.copy(COMMITTED_PAGE, page)
    draw_page(read_groups(COMMITTED_RESULTS), page)
    text = page.read_text(encoding="utf-8")
    assert text == COMMITTED_PAGE.read_text(encoding="utf-8")
    linked = re.findall(r"\]\(pictures/(.*?\.png)\)", text)
    assert sorted(linked) == sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert set(linked) == {path.name for path in (COMMITTED_PAGE.parent / "pictures").glob("results_*.png")}
