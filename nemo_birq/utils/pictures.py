"""Picture files that are complete or absent, and texts in them that come from data."""

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
    """Returns a text that matplotlib draws as it is, such as the name of a run or a transcript.

    Matplotlib sets what stands between two ``$`` as a formula, and no font has control characters.
    """
    return printable(text).replace("$", r"\$")
