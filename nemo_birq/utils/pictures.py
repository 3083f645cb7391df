"""Atomic writing of picture files, and escapes for texts from data in them."""

from pathlib import Path

from matplotlib.figure import Figure

from nemo_birq.utils.files import complete_file
from nemo_birq.utils.terminal import printable

DPI = 110


def write_picture(figure: Figure, path: Path) -> None:
    """Writes a figure in the format that the suffix of ``path`` names; see ``files.complete_file``."""
    with complete_file(path) as part:
        figure.savefig(part, format=path.suffix[1:] or "png", dpi=DPI)


def plain(text: str) -> str:
    """Escapes a text, such as a run name or a transcript, so that matplotlib draws it unchanged.

    Matplotlib draws text between two ``$`` as a formula, and no font has control characters.
    """
    return printable(text).replace("$", r"\$")
