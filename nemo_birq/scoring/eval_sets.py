"""Test sets: manifests of single files with transcripts."""

import math
import os
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nemo.collections.asr.models import ASRModel

from nemo_birq.data.json_lines import show
from nemo_birq.data.local_copies import local_manifest
from nemo_birq.data.manifests import check_files, has_text, read_lines
from nemo_birq.scoring.normalization import plain_apostrophes
from nemo_birq.scoring.tokens import vocabulary
from nemo_birq.utils.files import fingerprint


@dataclass(frozen=True)
class TestSet:
    """Name of a test set for tables and files, and the lines of its manifest."""

    __test__ = False  # pytest must not collect this class

    name: str
    manifest: Path
    lines: list[dict]


def check_test_manifest(manifest: str | Path) -> list[dict]:
    """Reads the lines of a test manifest with transcripts.

    No line is skipped, because the error rate would be that of another test set.

    Raises:
        ValueError: a line cannot be used or has no ``text``, or no line has a word.
        FileNotFoundError: an audio file does not exist.
    """
    lines = read_lines(str(manifest))
    check_files(str(manifest), lines)
    silent = [line for line in lines if not has_text(line.entry)]
    if silent:
        name = silent[0].entry["audio_filepath"]
        raise ValueError(f"test {silent[0].where}: {name} has no text ({len(silent)} such lines): add the transcripts")
    for where, entry, _ in lines:
        speaker = entry.get("speaker", entry.get("speaker_id"))
        if isinstance(speaker, bool | list | dict) or (isinstance(speaker, float) and not math.isfinite(speaker)):
            raise ValueError(f"test {where} has the speaker {show(speaker)}: it must be a name or a number")
    if not any(entry["text"].strip() for _, entry, _ in lines):
        raise ValueError(
            f"test manifest {manifest}: the text of all {len(lines)} lines is empty: give a test set with transcripts"
        )
    return [entry for _, entry, _ in lines]


def read_test_sets(arguments: list[str]) -> list[TestSet]:
    """Reads test sets given as ``MANIFEST`` or ``NAME=MANIFEST``; the default name is the file name without suffix.

    Remote manifests and audio files are copied to this machine first.

    Raises:
        ValueError: two test sets have the same name; otherwise as ``check_test_manifest`` and ``local_manifest``.
    """
    found: dict[str, TestSet] = {}
    for argument in arguments:
        name, equals, manifest = argument.partition("=")
        if not equals or Path(argument).exists():
            name, manifest = Path(argument).stem, argument
        if not name or "/" in name:
            raise ValueError(f"{argument}: {name!r} is not a valid file name: give NAME=MANIFEST")
        if name in found:
            raise ValueError(
                f"two test sets are called {name}: {found[name].manifest} and {manifest}. Give them names: "
                f"first={found[name].manifest} second={manifest}"
            )
        path = local_manifest(manifest)
        found[name] = TestSet(name, path, check_test_manifest(path))
    return list(found.values())


def check_apart(tests: list[TestSet], dev: TestSet) -> None:
    """Raises ValueError if the development set is one of the test sets, also under another name or through links."""
    for test in tests:
        if fingerprint(test.manifest) == fingerprint(dev.manifest) or _places(test) == _places(dev):
            raise ValueError(f"{test.manifest} is both the test set and the development set: give another set to --tune")


def _places(test: TestSet) -> set[tuple[str, float]]:
    """Returns the file, with links resolved, and the offset of each utterance."""
    folder = os.path.dirname(test.manifest)
    return {
        (os.path.realpath(os.path.join(folder, line["audio_filepath"])), line.get("offset") or 0.0) for line in test.lines
    }


def identity(line: dict) -> str:
    """Returns the identity of an utterance: its file, and its offset if it is a part of it."""
    offset = line.get("offset")
    return line["audio_filepath"] if not offset else f"{line['audio_filepath']}@{offset:.10g}"


def speaker_of(line: dict) -> str | None:
    """Returns the ``speaker`` or ``speaker_id`` of a manifest line."""
    speaker = line.get("speaker", line.get("speaker_id"))
    return None if speaker is None else str(speaker)


def unwritable(model: ASRModel, texts: list[str]) -> Counter:
    """Counts the characters of normalized references outside of the vocabulary, which are always errors."""
    held = plain_apostrophes(unicodedata.normalize("NFKC", "".join(vocabulary(model)))).lower()
    return Counter(sign for text in texts for sign in text if sign != " " and sign not in held)
