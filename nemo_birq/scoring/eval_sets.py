"""Manifests of single files that are transcribed and compared with their transcripts."""

import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nemo.collections.asr.models import ASRModel

from nemo_birq.data.manifests import check_manifest_of_files
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

    Raises:
        ValueError: a line without ``text``, or no word in all of them; else as ``manifests.check_manifest_of_files``.
    """
    lines = check_manifest_of_files(str(manifest))
    silent = [line["audio_filepath"] for line in lines if not isinstance(line.get("text"), str)]
    if silent:
        raise ValueError(f"test manifest {manifest}: {silent[0]} has no text to compare with ({len(silent)} such lines)")
    if not any(line["text"].strip() for line in lines):
        raise ValueError(f"test manifest {manifest}: the text of all {len(lines)} lines is empty, there is nothing to score")
    return lines


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
    """Raises ValueError where the development set is one of the test sets, under whatever name."""
    for test in tests:
        if fingerprint(test.manifest) == fingerprint(dev.manifest):
            raise ValueError(f"{test.manifest} would be tuned and tested on; give a development set to --tune")


def identity(line: dict) -> str:
    """Returns the identity of an utterance: its file, and its offset if it is a part."""
    offset = line.get("offset")
    return line["audio_filepath"] if not offset else f"{line['audio_filepath']}@{offset:g}"


def speaker_of(line: dict) -> str | None:
    """Returns the manifest's ``speaker`` or ``speaker_id``."""
    speaker = line.get("speaker", line.get("speaker_id"))
    return None if speaker is None else str(speaker)


def unwritable(model: ASRModel, texts: list[str]) -> Counter:
    """Counts the characters of normalized references that no token of the model has; they are always errors."""
    held = unicodedata.normalize("NFKC", "".join(vocabulary(model))).lower()
    return Counter(sign for text in texts for sign in text if sign != " " and sign not in held)
