"""Picture files that are complete or absent."""

from pathlib import Path

from matplotlib.figure import Figure

from nemo_birq.utils.files import complete_file

DPI = 110


def write_picture(figure: Figure, path: Path) -> None:
    """Writes a figure in the format that the suffix of ``path`` names; see ``files.complete_file``."""
    with complete_file(path) as part:
        figure.savefig(part, format=path.suffix[1:] or "png", dpi=DPI)
