"""Record of the inputs of a score, which is reused for the same inputs and not overwritten for other inputs."""

from pathlib import Path
from typing import Any

from nemo_birq.data.json_lines import show
from nemo_birq.utils.files import fingerprint, read_json

Made = dict[str, Any]


def made_from(model: Path, manifest: Path, decoding: dict, normalization: str) -> Made:
    """Describes the inputs by the contents of the files instead of their paths, so that files may be moved."""
    return {
        "model": fingerprint(model),
        "manifest": fingerprint(manifest),
        "decoding": decoding,
        "normalization": normalization,
    }


def finished(path: Path, made: Made, redo: bool) -> dict | None:
    """Reads the score in the file if it was made from the same inputs; None if it must be computed.

    Raises:
        ValueError: the file has other content, which would be overwritten.
    """
    if redo or not path.exists():
        return None
    try:
        found = read_json(path)
        before = found["made_from"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} exists and is not a score: give another folder with --out") from error
    if not isinstance(before, dict):
        raise ValueError(f"{path} is damaged: made_from is {show(before)}. Give another folder with --out")
    if before == made:
        return found
    changed = [key for key in made if before.get(key) != made[key]]
    raise ValueError(
        f"{path} holds a score made with another {' and '.join(changed)}: give another folder with --out, or --redo to "
        "replace it"
    )
