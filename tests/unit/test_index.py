"""The index finds every utterance, and reports manifests and shards that do not belong together."""

import io
import json
import os
import pickle
import tarfile

import pyarrow as pa
import pytest
import soundfile

import nemo_birq.data.index as index_module
from nemo_birq.data import build_index
from nemo_birq.data.build_index import with_small_types
from nemo_birq.data.dataset import UnusableAudio, read_utterance
from nemo_birq.data.index import SpeechIndex, open_index
from nemo_birq.data.sources import Source
from tests.helpers.models import SAMPLE_RATE
from tests.helpers.paths import CORPUS
from tests.helpers.shards import make_shards, wav

pytestmark = pytest.mark.unit


def source(folder, shards=2) -> Source:
    last = shards - 1
    return Source(
        f"{folder}/sharded_manifests/manifest__OP_0..{last}_CL_.json", f"{folder}/audio__OP_0..{last}_CL_.tar", None
    )


def add_member(folder, name: str, audio: bytes, shard: int = 0, line: bool = True) -> None:
    with tarfile.open(folder / f"audio_{shard}.tar", "a") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(audio)
        tar.addfile(member, io.BytesIO(audio))
    if line:
        add_line(folder, {"audio_filepath": name, "duration": 1.0, "shard_id": shard}, shard)


def add_line(folder, entry: dict, shard: int = 0) -> None:
    with open(folder / "sharded_manifests" / f"manifest_{shard}.json", "a") as file:
        file.write(json.dumps(entry) + "\n")


def names(index: SpeechIndex) -> list[str]:
    return [index.place(row).name for row in range(len(index))]


def test_places_hold_the_bytes_of_the_members():
    """The reference is tarfile, on the embedded corpus."""
    index = open_index(source(CORPUS / "train", 4))
    found = {}
    for shard in range(4):
        with tarfile.open(CORPUS / "train" / f"audio_{shard}.tar") as tar:
            found |= {(member.name, tar.name): tar.extractfile(member).read() for member in tar}
    assert len(index) == len(found) == 480 and index.num_lost == 0 and not index.problems
    for row in range(len(index)):
        place = index.place(row)
        with open(place.file, "rb") as file:
            file.seek(place.position)
            assert file.read(place.size) == found[place.name, place.file]
    lines = [json.loads(line) for line in (CORPUS / "train" / "tarred_audio_manifest.json").read_text().splitlines()]
    assert sorted(index.durations) == sorted(line["duration"] for line in lines)


def test_long_names_are_found(tmp_path):
    """Names above 100 characters have a separate header."""
    folder = make_shards(tmp_path)
    name = "speaker/" + "x" * 180 + ".wav"
    add_member(folder, name, wav())
    index = open_index(source(folder))
    assert read_utterance(index.place(names(index).index(name)), SAMPLE_RATE).shape == (SAMPLE_RATE,)


def test_segments_of_one_member_are_cut_out(tmp_path):
    folder = make_shards(tmp_path)
    audio = wav(3.0)
    add_member(folder, "long.wav", audio, line=False)
    add_line(folder, {"audio_filepath": "long-sub1.wav", "duration": 1.0, "offset": 0.5})
    add_line(folder, {"audio_filepath": "long-sub2.wav", "duration": 1.5, "offset": 1.5})
    index = open_index(source(folder))
    expected, _ = soundfile.read(io.BytesIO(audio), dtype="float32")
    for name, start, end in (("long-sub1.wav", 8000, 24000), ("long-sub2.wav", 24000, 48000)):
        signal = read_utterance(index.place(names(index).index(name)), SAMPLE_RATE)
        assert (signal == expected[start:end]).all()


def test_index_is_built_once_and_again_when_the_data_change(tmp_path, monkeypatch):
    folder = make_shards(tmp_path)
    built = []
    original = index_module.build_table
    monkeypatch.setattr(index_module, "build_table", lambda s, versions: built.append(s) or original(s, versions))
    first, second = open_index(source(folder)), open_index(source(folder))
    assert len(built) == 1 and first.path == second.path
    first.path.write_bytes(b"")  # a power failure
    assert len(open_index(source(folder))) == 8 and len(built) == 2
    add_member(folder, "new.wav", wav())
    assert len(open_index(source(folder))) == 9 and len(built) == 3
    assert len(pickle.loads(pickle.dumps(second))) == 8  # as worker processes get it


def test_a_damaged_index_is_built_again_in_words(tmp_path, monkeypatch):
    """Arrow itself ends the process at some of these bytes, and reads wrong positions at others."""
    one, two = source(make_shards(tmp_path / "one")), source(make_shards(tmp_path / "two", shards=3), 3)
    warnings = []
    monkeypatch.setattr(index_module.logging, "warning", warnings.append)
    index, other = open_index(one), open_index(two)
    expected = [index.place(row) for row in range(len(index))]
    whole = index.path.read_bytes()
    changed = [whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] for at in range(0, len(whole), 61)]
    truncated = [whole[: int(share * len(whole))] for share in (0, 0.001, 0.5, 0.999)]
    damaged = [*changed, *truncated, whole + b"x", b"no table" * 100, other.path.read_bytes()]
    for data in damaged:
        index.path.write_bytes(data)
        again = open_index(one)
        assert [again.place(row) for row in range(len(again))] == expected
    assert len(warnings) == len(damaged) and len(changed) > 30
    assert f"The index {index.path} of {one.manifest} is damaged" in warnings[0]


def problems_of(folder, shards=2) -> str:
    index = open_index(source(folder, shards))
    return f"{index.num_lost} lost\n" + "\n".join(index.problems)


def test_line_without_member_and_member_without_line(tmp_path):
    folder = make_shards(tmp_path)
    add_line(folder, {"audio_filepath": "ghost.wav", "duration": 1.0})
    add_member(folder, "foreign.txt", b"not in the manifest", shard=1, line=False)
    said = problems_of(folder)
    assert f"shard {folder}/audio_0.tar lacks ghost.wav" in said and said.startswith("1 lost")
    assert f"shard {folder}/audio_1.tar holds 1 members that no line of its manifest names, such as foreign.txt" in said


def test_names_that_leave_the_folder_and_names_that_stand_twice(tmp_path):
    folder = make_shards(tmp_path)
    add_member(folder, "../../etc/clip.wav", wav())
    add_member(folder, "/abs.wav", wav())
    add_member(folder, "clip0.wav", wav(2.0))
    said = problems_of(folder)
    assert "the name ../../etc/clip.wav leaves the folder" in said and "/abs.wav leaves the folder" in said
    assert "audio_0.tar holds clip0.wav twice" in said and "clip0.wav is twice in its manifest" in said
    index = open_index(source(folder))
    assert sorted(names(index)) == [f"clip{i}.wav" for i in range(8)]
    assert len(read_utterance(index.place(names(index).index("clip0.wav")), SAMPLE_RATE)) == SAMPLE_RATE  # the first


def test_truncated_shard_gives_what_lies_before_the_break(tmp_path):
    folder = make_shards(tmp_path, shards=1)
    tar = folder / "audio_0.tar"
    with tarfile.open(tar) as archive:
        fifth = archive.getmembers()[4]
    os.truncate(tar, fifth.offset_data + 1000)  # in the middle of the fifth member
    index = open_index(source(folder, 1))
    assert names(index) == [f"clip{i}.wav" for i in range(4)] and index.num_lost == 4
    assert "cannot be read to its end" in index.problems[0] and "audio_0.tar lacks clip4.wav" in "".join(index.problems)


def test_text_that_is_not_utf8_costs_one_line(tmp_path):
    folder = make_shards(tmp_path)
    path = folder / "sharded_manifests" / "manifest_0.json"
    path.write_bytes(path.read_bytes() + b'{"audio_filepath": "x.wav", "duration": 1, "text": "caf\xe9"}\n')
    said = problems_of(folder)
    assert said.startswith("1 lost") and "line 5 is not UTF-8" in said


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_no_numbers_are_refused(tmp_path, value):
    signal = 0.1 * soundfile.read(io.BytesIO(wav()), dtype="float32")[0]
    signal[77] = value
    soundfile.write(tmp_path / "bad.wav", signal, SAMPLE_RATE, subtype="FLOAT")
    (tmp_path / "dev.json").write_text('{"audio_filepath": "bad.wav", "duration": 1.0}\n')
    index = open_index(Source(str(tmp_path / "dev.json"), None, None))
    with pytest.raises(UnusableAudio, match="NaN"):
        read_utterance(index.place(0), SAMPLE_RATE)


def test_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NEMO_BIRQ_CACHE", str(tmp_path / "file" / "folder"))
    with pytest.raises(PermissionError, match="NEMO_BIRQ_CACHE"):
        open_index(source(CORPUS / "train", 4))


def test_processes_give_the_index_of_one(tmp_path, monkeypatch):
    """The problems of all kinds of lines have the same messages and order as in one process."""
    folder = make_shards(tmp_path, shards=4)
    add_line(folder, {"audio_filepath": "lost.wav", "duration": 1.0, "shard_id": 3}, 3)
    add_line(folder, {"audio_filepath": "clip0.wav", "duration": -1.0, "shard_id": 0}, 0)
    add_line(folder, {"audio_filepath": "clip1.wav", "duration": 1.0, "shard_id": 1, "_skipme": True}, 1)
    add_member(folder, "more.wav", wav(), shard=2, line=False)
    expected = build_index.build_table(source(folder, 4), {})
    monkeypatch.setattr(build_index, "SHARDS_OF_A_PROCESS", 2)
    monkeypatch.setattr(build_index.os, "sched_getaffinity", lambda _: range(8))
    ran = []
    monkeypatch.setattr(build_index, "_run", lambda *jobs, run=build_index._run: ran.append(jobs) or run(*jobs))
    found = build_index.build_table(source(folder, 4), {})
    assert len(ran) == 1 and found.equals(expected) and found.schema.metadata == expected.schema.metadata
    assert json.loads(found.schema.metadata[b"birq"])["num_lost"] == 2


@pytest.mark.parametrize(
    ("name", "values", "given", "kept"),
    [
        ("size", [0, 2**32 - 1], pa.int64(), pa.uint32()),
        ("size", [0, 2**32], pa.int64(), pa.int64()),
        ("start", [0.0, 1.5], pa.float64(), pa.float32()),
        ("start", [0.0, 0.1], pa.float64(), pa.float64()),
        ("checksum", [None, None], pa.uint32(), pa.null()),
        ("checksum", [None, 7], pa.uint32(), pa.uint32()),
        ("name", ["a", "\u00e9"], pa.large_string(), pa.string()),
    ],
)
def test_columns_get_small_types_that_hold_their_values(name, values, given, kept):
    table = pa.table({name: pa.chunked_array([pa.array(values[:1], given), pa.array(values[1:], given)])})
    small = with_small_types(table)
    assert small.schema.field(name).type == kept
    assert small.column(name).to_pylist() == values and len(small.to_batches()) == 1
