"""Manifest lines that cannot be used: each loses its utterance only, and is counted and named."""

import gzip
import io
import json
import math
import re
import shutil
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lhotse import MonoCut, Recording
from omegaconf import OmegaConf

from nemo_birq.data.factory import build_dataloader
from nemo_birq.data.index import open_index
from nemo_birq.data.json_lines import MAX_LINE_BYTES, parse_lines
from nemo_birq.data.manifests import MAX_SECONDS, iterate_manifest
from nemo_birq.data.shards.recipes.cuts import CutsRecipe
from nemo_birq.data.shards.recipes.manifest import ManifestRecipe
from nemo_birq.data.shards.segments import BuildError
from nemo_birq.data.shards.verify import verify
from nemo_birq.data.sources import Source
from nemo_birq.extraction.data import open_data
from nemo_birq.finetuning.data import open_whole
from nemo_birq.finetuning.transcripts import read_transcripts
from nemo_birq.scoring.eval_sets import check_test_manifest
from nemo_birq.utils.progress import ProgressBars
from tests.helpers.models import SAMPLE_RATE
from tests.helpers.shards import make, make_shards, noise, write

pytestmark = pytest.mark.unit
NAMES = [f"clip{i}.wav" for i in range(8)]


def line(**changes: object) -> bytes:
    return json.dumps({"audio_filepath": "clip0.wav", "duration": 1.0, "shard_id": 0} | changes).encode()


def with_value(key: str, value: bytes) -> bytes:
    """Makes a line with a value that ``json.dumps`` does not write."""
    return line(**{key: "PLACE"}).replace(b'"PLACE"', value)


BAD = {
    "nested": (with_value("extra", b"[" * 100_000 + b"]" * 100_000), "nested too deep"),
    "nested as far as can be read": (with_value("extra", b"[" * 150 + b"]" * 150), "nested deeper than 100"),
    "5000 digits": (with_value("extra", b"9" * 5000), "thousands of digits"),
    "400 digits": (with_value("duration", b"9" * 400), "duration=999"),
    "beyond float": (with_value("duration", b"1e999"), "duration=inf"),
    "NaN": (line(duration=math.nan), "duration=nan"),
    "minus infinity": (line(offset=-math.inf), "offset=-inf"),
    "31 years": (line(duration=1e9), "11 days"),
    "offset of years": (line(offset=1e300), "offset=1e\\+300"),
    "negative": (line(duration=-1.0), "duration=-1.0"),
    "truth": (line(duration=True), "duration=True"),
    "text as offset": (line(offset="0.5"), "offset='0.5'"),
    "list as duration": (line(duration=[1.0]), r"duration=\[1.0\]"),
    "object as path": (line(audio_filepath={"a": 1}), "audio_filepath={'a': 1}"),
    "empty path": (line(audio_filepath=""), "audio_filepath=''"),
    "NUL in path": (line(audio_filepath="clip0\0.wav"), "cannot be a path"),
    "long path": (line(audio_filepath=100_000 * "x"), "cannot be a path"),
    "lone surrogate": (with_value("audio_filepath", b'"\\ud800.wav"'), "half a character"),
    "lone surrogate in another key": (with_value("speaker", b'"\\udc80"'), "half a character"),
    "NUL": (line() + b"\0", "not JSON"),
    "nothing but NUL": (bytes(1000), "not JSON"),
    "not UTF-8": (b'{"audio_filepath": "clip0.wav", "duration": 1.0, "text": "caf\xe9"}', "not UTF-8: byte 0xe9"),
    "key twice": (b'{"audio_filepath": "clip0.wav", "duration": 1.0, "duration": 2.0}', "key 'duration' twice"),
    "no object": (b"[1, 2]", "but list"),
    "half a line": (line()[:30], "not JSON"),
}


def manifest_of_all(path: Path, good: list[bytes]) -> Path:
    path.write_bytes(b"\n".join([*good, *(raw for raw, _ in BAD.values())]) + b"\n")
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Eight clips in two shards and as single files, with manifests of single files, of each shard and of both.

    The lines that cannot be used follow the good ones in the manifest of the first shard, and in those of the whole.
    """
    folder = make_shards(tmp_path_factory.mktemp("bad") / "shards")
    for shard in range(2):
        with tarfile.open(folder / f"audio_{shard}.tar") as tar:
            tar.extractall(folder, filter="data")
    for name in ("sharded_manifests/manifest_0.json", "tarred_audio_manifest.json"):
        manifest_of_all(folder / name, (folder / name).read_bytes().splitlines())
    manifest_of_all(folder / "files.json", [line(audio_filepath=name, text="a") for name in NAMES])
    return folder


def config(folder: Path, kind: str, **changes: object):
    manifests = {
        "shards": "sharded_manifests/manifest__OP_0..1_CL_.json",
        "one manifest": "tarred_audio_manifest.json",
        "stream": "sharded_manifests/manifest__OP_0..1_CL_.json",
        "files": "files.json",
    }
    node = {"manifest_filepath": f"{folder}/{manifests[kind]}", "batch_size": 8, "max_skipped_share": 0.9, "num_workers": 0}
    if kind != "files":
        node["tarred_audio_filepaths"] = f"{folder}/audio__OP_0..1_CL_.tar"
    node |= {"use_lhotse": kind != "stream", "is_tarred": kind == "stream"}
    return OmegaConf.create(node | changes)


FIRST = {"shards": 5, "one manifest": 9, "stream": 5, "files": 9}


@pytest.mark.parametrize("kind", FIRST)
def test_training_goes_on_without_them_and_names_each(shards, kind, caplog):
    batches = build_dataloader(config(shards, kind), SAMPLE_RATE, 0, 1, training=False)
    assert sorted({Path(name).name for batch in batches for name in batch.ids}) == NAMES
    for number, (name, (_, reason)) in enumerate(BAD.items(), start=FIRST[kind]):
        found = [said for said in caplog.text.splitlines() if f", line {number} " in said]
        assert len(found) == 1 and re.search(reason, found[0]), (name, found)


@pytest.mark.parametrize("kind", FIRST)
def test_more_than_the_share_end_it_before_it_begins(shards, kind):
    with pytest.raises(
        ValueError, match=rf"\b{len(BAD)} of {len(BAD) + 8} .*\n.*line {FIRST[kind]} .*(?s:.*)max_skipped_share"
    ):
        build_dataloader(config(shards, kind, max_skipped_share=0.05), SAMPLE_RATE, 0, 1, training=False)


def test_a_manifest_of_nothing_else_is_an_error_that_names_it(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "copy")
    for name in ("files.json", "tarred_audio_manifest.json"):
        manifest_of_all(tmp_path / "copy" / name, [])
    for kind in ("files", "one manifest", "stream"):
        node = config(tmp_path / "copy", kind, max_skipped_share=1.0)
        node.manifest_filepath = node.manifest_filepath.replace(
            "sharded_manifests/manifest__OP_0..1_CL_", "tarred_audio_manifest"
        )
        with pytest.raises(ValueError, match=rf"{Path(node.manifest_filepath).name}.*(?s:.*)line 1 "):
            build_dataloader(node, SAMPLE_RATE, 0, 1, training=False)


def test_a_shard_id_that_is_no_number(shards, tmp_path):
    """It is read only if one manifest covers several shards."""
    shutil.copytree(shards, tmp_path / "copy")
    ids = [[0], {}, "0", None, True, math.nan, 7]
    manifest = tmp_path / "copy" / "tarred_audio_manifest.json"
    good = manifest.read_bytes().splitlines()[:8]
    manifest.write_bytes(b"\n".join([*good, *(line(shard_id=shard_id) for shard_id in ids)]))
    data = open_index(Source(str(manifest), f"{tmp_path}/copy/audio__OP_0..1_CL_.tar", None))
    assert len(data) == 8 and data.num_lost == len(ids)
    for number, (problem, shard_id) in enumerate(zip(data.problems, ids, strict=True), start=9):
        assert f"line {number}: clip0.wav has shard_id={shard_id!r}, " in problem


def test_work_that_must_be_exact_stops_with_file_and_line(shards, tmp_path):
    for name, (raw, reason) in BAD.items():
        path = tmp_path / "files.json"
        path.write_bytes(b"\n".join([*(line(audio_filepath=str(shards / n), text="a") for n in NAMES), raw]))
        for read in (check_test_manifest, read_transcripts):
            with pytest.raises(ValueError, match=rf"files\.json, line 9 .*{reason}") as error:
                read(str(path))
            assert len(str(error.value)) < 1000 and "\n" not in str(error.value), name
    with pytest.raises(ValueError, match=rf"{len(BAD)} of .*files\.json.*line 9 "):
        open_whole(config(shards, "files"))


@pytest.mark.parametrize("speaker", [["a"], {"a": 1}, math.nan, True])
def test_speakers_that_would_make_groups_of_nothing(shards, tmp_path, speaker):
    path = tmp_path / "files.json"
    path.write_bytes(line(audio_filepath=str(shards / "clip0.wav"), text="a", speaker=speaker))
    with pytest.raises(ValueError, match=r"files\.json, line 1 .*speaker"):
        check_test_manifest(path)


def test_extraction_keeps_the_lines_of_what_is_left(shards, caplog):
    """The lines of the manifest stay with their utterances when others between them are left out."""
    manifest = shards / "mixed.json"
    rows = [part for name in NAMES for part in (line(audio_filepath=name, text=name), BAD["list as duration"][0])]
    manifest.write_bytes(b"\n".join(rows))
    with pytest.raises(ValueError, match=r"\b8 of 16 .*\n.*line 2 "):
        open_data(str(manifest), None, SAMPLE_RATE)
    manifest.write_bytes(b"\n".join([BAD["nested"][0], *(line(audio_filepath=name, text=name) for name in NAMES * 4)]))
    data = open_data(str(manifest), None, SAMPLE_RATE)
    assert [entry["text"] for entry in data.lines()] == NAMES * 4 and "line 1 is nested too deep" in caplog.text


def test_shards_are_built_without_them_and_the_card_names_each(shards, tmp_path):
    card = make(ManifestRecipe([shards / "files.json"]), tmp_path / "out", max_skipped_share=0.9)
    reasons = {entry["name"]: entry["reason"] for entry in card["skipped"]}
    assert card["utterances"] == 8 and len(reasons) == len(BAD)
    for number, (name, (_, reason)) in enumerate(BAD.items(), start=9):
        assert re.search(reason, reasons[f"files.json, line {number}"]), name
    manifest_of_all(tmp_path / "bad.json", [])
    with pytest.raises(BuildError, match=r"bad\.json, line 1: "):
        make(ManifestRecipe([tmp_path / "bad.json"]), tmp_path / "none", max_skipped_share=1.0)


def test_verification_names_each(shards):
    found, members = verify(shards, True, 1, ProgressBars(disable=True))
    named = {problem.member: problem.problem for problem in found if problem.shard.endswith("manifest_0.json")}
    assert members == 8 and len(named) == len(BAD)
    for number, (name, (_, reason)) in enumerate(BAD.items(), start=5):
        assert re.search(reason, named[f"line {number}"]), name
    (shards / "dataset_card.json").write_text('{"sha256": ')
    with pytest.raises(ValueError, match=r"dataset_card\.json is damaged"):
        verify(shards, True, 1, ProgressBars(disable=True))
    (shards / "dataset_card.json").unlink()


@pytest.mark.parametrize("packed", [False, True])
def test_cuts(tmp_path, packed):
    recording = Recording.from_file(write(tmp_path / "a.wav", noise(3.0)))
    cut = json.dumps(MonoCut("good", 0.5, 2.0, 0, recording=recording).to_dict())
    wrong = [cut.replace('"start": 0.5', f'"start": {value}') for value in ("NaN", '"0"', "1e300", "[0]", "-1")]
    wrong += [cut.replace('"id": "good"', '"id": 5'), cut.replace('"type": "MonoCut"', '"type": "None"')]
    wrong += [raw.decode(errors="surrogateescape") for raw, _ in BAD.values()]
    content = "\n".join([cut, *wrong]).encode(errors="surrogateescape")
    path = tmp_path / f"cuts.jsonl{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(content) if packed else content)
    card = make(CutsRecipe(path), tmp_path / "out", max_skipped_share=1.0)
    assert card["utterances"] == 1
    assert {entry["name"] for entry in card["skipped"]} == {f"{path.name}, line {i}" for i in range(2, len(wrong) + 2)}


def test_a_line_that_fills_the_memory_is_not_read_whole():
    """A file of another kind may be one line."""
    long = b'"' + bytes(MAX_LINE_BYTES + 10)
    found = list(parse_lines(io.BytesIO(long + b"\n" + line() + b"\n" + long)))
    assert [(number, bool(problem)) for number, _, problem in found] == [(1, True), (2, False), (3, True)]
    assert "longer than 64 MiB" in found[0].problem


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
KEYS = ("audio_filepath", "duration", "offset", "text", "shard_id", "id", "lang", "speaker", "channel", "extra")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES) | VALUES | st.binary(max_size=40), max_size=6))
def test_any_lines_become_an_index_of_those_that_can_be_used(shards, tmp_path, monkeypatch, entries):
    """Single files, and shards with one manifest."""
    monkeypatch.setenv("NEMO_BIRQ_CACHE", str(tmp_path))
    raw = [entry if isinstance(entry, bytes) else json.dumps(entry).encode() for entry in entries]
    content = b"\n".join([*raw, b"", line()])
    path = shards / "any.json"
    path.write_bytes(content)
    usable = [entry for _, entry, problem in iterate_manifest(str(path)) if not problem]
    assert json.loads(line()) in usable
    for entry in usable:
        assert 0 < float(entry["duration"]) <= MAX_SECONDS and entry["audio_filepath"].encode()
    for tars in (None, f"{shards}/audio__OP_0..1_CL_.tar"):
        index = open_index(Source(str(path), tars, None))
        assert len(index) >= 1 and math.isfinite(index.durations.sum())
        assert len(index) + index.num_lost == sum(bool(part.strip()) for part in content.split(b"\n"))
