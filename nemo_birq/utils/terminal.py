"""Terminal output of texts from data: paths, names of utterances and runs, transcripts, error messages.

A terminal executes control characters from any source: ``\\x1b[2J`` in a transcript clears the screen. Rich interprets
``[/b]`` in a path as markup.
"""

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters except tab and line feed."""
_UNDECODED = re.compile(r"[\ud800-\udfff]")
"""Surrogates for bytes of a file name that are not UTF-8; a terminal's stream cannot encode them."""


def printable(text: object) -> str:
    """Escapes the control characters and undecoded bytes of a text for logs and messages, such as ``\\x1b``."""
    escaped = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(text))
    return _UNDECODED.sub(lambda found: f"\\u{ord(found[0]):04x}", escaped)


class Terminal(Console):
    """A console that shows every text unchanged, also in tables: without markup, emoji codes and control characters.

    Use ``rich.text.Text`` or ``style=`` for styles.

    Args:
        options: options of ``rich.console.Console``.
    """

    def __init__(self, **options: Any):
        super().__init__(**{"markup": False, "emoji": False, "highlight": False} | options)

    def render(self, *args: Any, **options: Any) -> Iterable[Segment]:
        """Renders as rich does, and removes control characters from all segments except rich's own."""
        for segment in super().render(*args, **options):
            if segment.control is None:
                segment = segment._replace(text=_UNDECODED.sub("\ufffd", _CONTROL.sub("", segment.text)))
            yield segment

    def status(self, status: str, **options: Any) -> Status:
        """Shows a spinner with a text while the block runs."""
        return super().status(Text(status), **options)
