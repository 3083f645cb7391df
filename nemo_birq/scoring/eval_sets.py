"""Manifests of single files that are transcribed and compared with their transcripts."""

import math
import os
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nemo.collections.asr.models import ASRModel

from nemo_birq.data.json_lines import show
from nemo_birq.data.manifests import check_files, has_text, read_lines
from nemo_birq.scoring.normalization import plain_apostrophes
from nemo_birq.scoring.tokens import vocabulary
from nemo_birq.utils.files import fingerprint


@dataclass(frozen=True)
class TestSet:
    """A name for tables and files, and the manifest's lines."""

    __test__ = False  # for pytest

    name: str
    manifest: Path
    lines: list[dict]


def check_test_manifest(manifest: str | Path) -> list[dict]:
    """Reads the lines of a test manifest, with transcripts.

    No line is left out: the error rate would be that of another test set.

    Raises:
        ValueError: a line that cannot be used or is without ``text``, or no word in all of them.
        FileNotFoundError: an audio file that is not there.
    """
    lines = read_lines(str(manifest))
    check_files(str(manifest), lines)
    silent = [line for line in lines if not has_text(line.entry)]
    if silent:
        name = silent[0].entry["audio_filepath"]
        raise ValueError(f"test {silent[0].where}: {name} has no text to compare with ({len(silent)} such lines)")
    for where, entry, _ in lines:
        speaker = entry.get("speaker", entry.get("speaker_id"))
        if isinstance(speaker, bool | list | dict) or (isinstance(speaker, float) and not math.isfinite(speaker)):
            raise ValueError(f"test {where} has the speaker {show(speaker)}, which must be a name or a number")
    if not any(entry["text"].strip() for _, entry, _ in lines):
        raise ValueError(f"test manifest {manifest}: the text of all {len(lines)} lines is empty, there is nothing to score")
    return [entry for _, entry, _ in lines]


def read_test_sets(arguments: list[str]) -> list[TestSet]:
    """Reads test sets given as ``MANIFEST`` or ``NAME=MANIFEST``; the name is else that of the file, without suffix.

    Raises:
        ValueError: two of one name; else as ``check_test_manifest``.
    """
    found: dict[str, TestSet] = {}
    for argument in arguments:
        name, equals, manifest = argument.partition("=")
        if not equals or Path(argument).exists():
            name, manifest = Path(argument).stem, argument
        if not name or "/" in name:
            raise ValueError(f"{argument}: {name!r} cannot be the name of a file; give NAME=MANIFEST")
        if name in found:
            raise ValueError(
                f"two test sets are called {name}: {found[name].manifest} and {manifest}. Give them names: "
                f"first={found[name].manifest} second={manifest}"
            )
        found[name] = TestSet(name, Path(manifest), check_test_manifest(manifest))
    return list(found.values())


def check_apart(tests: list[TestSet], dev: TestSet) -> None:
    """Raises ValueError where the development set is one of the test sets, under whatever name, and behind links."""
    for test in tests:
        if fingerprint(test.manifest) == fingerprint(dev.manifest) or _places(test) == _places(dev):
            raise ValueError(f"{test.manifest} would be tuned and tested on; give a development set to --tune")


def _places(test: TestSet) -> set[tuple[str, float]]:
    """Returns file, all links followed, and offset of each utterance."""
    folder = os.path.dirname(test.manifest)
    return {
        (os.path.realpath(os.path.join(folder, line["audio_filepath"])), line.get("offset") or 0.0) for line in test.lines
    }


def identity(line: dict) -> str:
    """Returns the identity of an utterance: its file, and its offset if it is a part."""
    offset = line.get("offset")
    return line["audio_filepath"] if not offset else f"{line['audio_filepath']}@{offset:.10g}"


def speaker_of(line: dict) -> str | None:
    """Returns the manifest's ``speaker`` or ``speaker_id``."""
    speaker = line.get("speaker", line.get("speaker_id"))
    return None if speaker is None else str(speaker)


def unwritable(model: ASRModel, texts: list[str]) -> Counter:
    """Counts the characters of normalized references that no token of the model has; they are always errors."""
    held = plain_apostrophes(unicodedata.normalize("NFKC", "".join(vocabulary(model)))).lower()
    return Counter(sign for text in texts for sign in text if sign != " " and sign not in held)
