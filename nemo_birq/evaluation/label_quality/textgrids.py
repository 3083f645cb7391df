"""TextGrid files of Praat, as forced aligners write them."""

import re
from pathlib import Path
from typing import NamedTuple

from praatio.utilities.constants import INTERVAL_TIER
from praatio.utilities.textgrid_io import parseTextgridStr

ROUNDING = 0.01  # seconds by which neighbouring intervals may overlap, because times may have two decimals
SUFFIX = ".textgrid"

_EXPONENT = re.compile(r"^(\s*x(?:min|max) ?= ?)(\d+(?:\.\d+)?[eE]-\d+)\s*$", re.MULTILINE)


class Interval(NamedTuple):
    """A label with its times in seconds."""

    start: float
    end: float
    label: str


def find_textgrids(folder: Path) -> list[Path]:
    """Lists the TextGrid files in a folder and below, without the companions that macOS writes."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() == SUFFIX and not p.name.startswith("._") and p.is_file())


def read_tiers(path: Path) -> list[tuple[str, list[Interval]]]:
    """Reads the names and intervals of the interval tiers of a file, long, short or JSON, in UTF-8 or UTF-16.

    Times are unchanged: neighbours may overlap by rounding, and intervals may have no length.

    Raises:
        ValueError: it is not a TextGrid file.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        text = _EXPONENT.sub(lambda found: f"{found[1]}{float(found[2]):.9f}", text)  # praatio cannot read 1e-05
        return [
            (tier["name"], [Interval(float(start), float(end), str(label)) for start, end, label in tier["entries"]])
            for tier in parseTextgridStr(text, includeEmptyIntervals=True)["tiers"]
            if tier["class"] == INTERVAL_TIER
        ]
    except OSError as error:
        raise ValueError(f"alignments: {path} cannot be opened ({error})") from error
    except Exception as error:  # praatio raises errors of any type for damaged files
        raise ValueError(f"alignments: {path} is not a readable TextGrid ({type(error).__name__}: {error})") from error


def check_overlap(path: Path, intervals: list[Interval]) -> None:
    """Checks that intervals do not overlap.

    Raises:
        ValueError: two intervals overlap by more than ``ROUNDING``.
    """
    end = float("-inf")
    for interval in sorted(intervals):
        if interval.start < end - ROUNDING:
            raise ValueError(
                f"alignments: {path} has intervals that overlap: {interval.label!r} begins at {interval.start} s, where "
                f"another one ends at {end} s. Correct their times"
            )
        end = max(end, interval.end)
