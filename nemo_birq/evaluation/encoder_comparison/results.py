"""Files of a comparison of encoders: encoders.json and encoders.png."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_birq.evaluation.encoder_comparison.differences import abx_differences
from nemo_birq.evaluation.encoder_comparison.measure import Measured
from nemo_birq.evaluation.encoder_comparison.pictures import draw
from nemo_birq.utils.files import write_json

NAME = "encoders"


def names(paths: Sequence[Path]) -> list[str]:
    """Returns the name of each file without suffix, or of each folder; the path where two have the same name."""
    short = [path.stem if path.is_file() else path.resolve().name for path in paths]
    return [str(path) if Counter(short)[name] > 1 else name for path, name in zip(paths, short, strict=True)]


def write_results(rows: Sequence[Measured], about: dict[str, Any], folder: Path) -> list[Path]:
    """Writes both files and returns their paths; ``about`` are further keys of the JSON file."""
    folder.mkdir(parents=True, exist_ok=True)
    path, picture = folder / f"{NAME}.json", folder / f"{NAME}.png"
    differences = [one.as_json() for one in abx_differences(rows)]
    write_json(path, about | {"encoders": [row.as_json() for row in rows], "abx_differences": differences})
    draw(rows, picture)
    return [path, picture]
