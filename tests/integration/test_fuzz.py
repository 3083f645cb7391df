"""Damaged input files: a short ``make fuzz``, and that it finds each kind of ending that must not occur."""

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.reliability.fuzzing import validity
from benchmarks.reliability.fuzzing.campaign import Subject, campaign
from benchmarks.reliability.fuzzing.corruptions import BYTES
from benchmarks.reliability.fuzzing.good_files import GoodFiles
from benchmarks.reliability.fuzzing.kinds import KINDS, Kind
from benchmarks.reliability.fuzzing.results import text_files
from benchmarks.reliability.fuzzing.stage import Stage
from benchmarks.reliability.fuzzing.verdict import CLASSES, FORBIDDEN, UNDETECTABLE
from tests.helpers import bad_readers
from tests.helpers.forked import SERVER
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.integration
CASES = {
    "manifest, estimate-ngram": 5, "shard card, verify-shards": 2, "tar shard, flac, verify-shards": 2,
    ".nemo, pretrained, extract-labels": 4, ".ckpt, extract-labels": 4, "Lhotse cuts, make-shards": 2,
}  # fmt: skip
"""Number of cases of the kinds whose commands are fast."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Stage:
    return Stage(SERVER, tmp_path_factory.mktemp("fuzz"))


def test_no_damaged_file_ends_in_a_traceback_or_in_silence(stage):
    named = {kind.name: kind for kind in KINDS}
    plan = [(named[name], range(count)) for name, count in CASES.items()]
    cases = [case for case in campaign(stage, plan, seed=5) if not isinstance(case, Kind)]
    bad = [
        f"{case.kind} {case.number} {case.corruption}: {case.verdict}" for case in cases if case.verdict.name in FORBIDDEN
    ]
    assert not bad, "\n".join(bad)
    assert len(cases) == sum(CASES.values())


@pytest.mark.parametrize("name", CLASSES)
def test_each_class_of_endings_is_recognized(name, stage, monkeypatch):
    """Runs a command that ends in this way whenever its input is damaged."""
    reader = {"named error": "named_error", "skipped and counted": "counted", "unnamed error": "unnamed_error"}
    function = "silent" if name == UNDETECTABLE else reader.get(name, name)
    rule = validity.any_text if name == UNDETECTABLE else validity.never
    kind = Kind(
        f"text for {name}", {"input.txt": "input.txt"}, ("input.txt",), ("read",), text_files("out.txt"), BYTES[:1], rule,
        entry=f"tests.helpers.bad_readers:{function}",
    )  # fmt: skip
    good = _GoodText(stage)
    subject = Subject(kind, good, stage)
    subject.timeout = 1.0
    assert subject.run(0, seed=0).verdict.name == name


class _GoodText:
    """Good files with nothing but a text."""

    def __init__(self, stage: Stage):
        self.folder = stage.folder / "text"
        self.folder.mkdir(exist_ok=True)

    def get(self, name: str) -> Path:
        (self.folder / name).write_text(bad_readers.GOOD)
        return self.folder / name


def test_a_seed_gives_the_same_cases_alone_and_one_after_the_other(stage):
    kind = next(kind for kind in KINDS if kind.name == "manifest, estimate-ngram")
    again = Stage(SERVER, stage.folder / "again")
    subject = Subject(kind, GoodFiles(again), again)

    def damaged(number: int, seed: int) -> bytes:
        subject.run(number, seed)
        path = subject.folder / "speech.json"
        return path.read_bytes() if path.is_file() else b"no file"

    first = [damaged(number, 0) for number in range(4)]
    assert len(set(first)) > 1
    assert damaged(2, 0) == first[2]
    assert [damaged(number, 1) for number in range(4)] != first


def test_the_committed_result_holds_no_forbidden_class():
    found = json.loads((ROOT / "docs/results/fuzz.json").read_text())
    assert found["cases"] >= 1000 and not found["forbidden"]
    assert set(found["kinds"]) == {kind.name for kind in KINDS}
    total = Counter()
    for counts in found["kinds"].values():
        total.update(counts)
    assert {name: total[name] for name in CLASSES} == found["classes"]
    assert not any(found["classes"][name] for name in FORBIDDEN)
