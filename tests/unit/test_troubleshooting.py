"""The messages in docs/troubleshooting.md are those of the code, and every alarm has a section."""

import ast
import re
from functools import cache

import pytest

from nemo_birq.monitoring.alarm_rules import RULES
from tests.helpers.documented import blocks
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.unit
PAGE = ROOT / "docs" / "troubleshooting.md"
QUOTED = [block for block in blocks(PAGE) if block.language == "text"]
VALUE = "\0"
"""Stands for a value that is put into a message."""


def text_of(node: ast.expr) -> str:
    """Returns the text of a string expression, with ``VALUE`` in place of its values."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) if isinstance(part, ast.Constant) else VALUE for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    return VALUE


@cache
def messages() -> str:
    """Returns all texts of the package, joined."""
    found = []
    for path in sorted((ROOT / "nemo_birq").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
                found.append(re.sub(r"\s+", " ", text_of(node)))
    return "\n".join(found)


def test_the_page_quotes_messages():
    assert len(QUOTED) >= 25
    assert not re.search(pattern("the loss is a banana at step ..."), messages())


def pattern(quoted: str) -> str:
    """Returns a regular expression for a message in one line, whose ``...`` are one or more values with what joins them."""
    parts = re.sub(r"\s+", " ", quoted.strip()).split("...")
    return f"[^\n]*?{VALUE}[^\n]*?".join(map(re.escape, parts)) if len(parts) > 1 else re.escape(parts[0])


@pytest.mark.parametrize("block", QUOTED, ids=lambda block: block.place)
def test_quoted_messages_are_those_of_the_code(block):
    quoted = block.text.strip().removesuffix("...").strip()
    assert re.search(pattern(quoted), messages()), f"{block.place}: the code has no message like {quoted!r}"


def test_every_alarm_has_a_section():
    headings = set(re.findall(r"^### (\w+)$", PAGE.read_text(), re.MULTILINE))
    assert {rule.__name__ for rule in RULES} | {"unreadable_data", "non_finite_loss"} <= headings
