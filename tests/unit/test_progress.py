"""Progress bars by rich behind the protocol of utils/progress.py."""

import io

import pytest
from rich.console import Console

from nemo_birq.utils.progress import ProgressBars, track


@pytest.mark.unit
def test_bars_show_what_is_done():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with ProgressBars(console=console) as progress:
        advance = progress.start("epochs", 4)
        advance(1)
        advance(2, "epochs, loss 0.123")
        assert list(track("abc", progress, "letters")) == list("abc")
        progress.start("clusters")
    shown = console.file.getvalue()
    for text in ("epochs, loss 0.123", " 75%", "letters", "100%", "clusters"):
        assert text in shown
