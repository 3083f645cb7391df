"""Short manifests of audio of the embedded corpus."""

import json
from pathlib import Path

from tests.helpers.paths import CORPUS

TEST = CORPUS / "test" / "test.json"


def short_lines(count: int) -> list[dict]:
    """Returns the first lines of the test set, with absolute paths."""
    lines = [json.loads(line) for line in TEST.read_text().splitlines()[:count]]
    return [line | {"audio_filepath": str(TEST.parent / line["audio_filepath"])} for line in lines]


def write_manifest(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
