"""Escapes for texts from data in Markdown."""

import re

from nemo_birq.utils.terminal import printable

_SPECIAL = re.compile(r"[&<>|`*\\\[\]]")


def escaped(text: str) -> str:
    """Escapes a text so that Markdown shows it unchanged, in a line or in a table cell, without HTML, links or new cells."""
    return printable(_SPECIAL.sub(lambda found: f"&#{ord(found[0])};", " ".join(text.split())))


def fence_for(*contents: str) -> str:
    """Returns the backticks that begin and end a code block: more than the contents have in a row."""
    runs = [len(run) for content in contents for run in re.findall("`+", content)]
    return "`" * max(3, *(run + 1 for run in runs), 3)
