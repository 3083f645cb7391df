"""Shard building: shards have the audio of the input, and are the same every time, even after interruptions."""

import io
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zlib
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from nemo.collections.common.data.lhotse.nemo_adapters import LazyNeMoTarredIterator
from omegaconf import OmegaConf

from nemo_birq.data.factory import build_dataloader
from nemo_birq.data.shards.audio import encode
from nemo_birq.data.shards.build import CARD, LOCK
from nemo_birq.data.shards.build_command import training_keys
from nemo_birq.data.shards.cut import AT_UTTERANCES, EQUAL, WHOLE, cut, join_utterances
from nemo_birq.data.shards.headers import Header, read_header
from nemo_birq.data.shards.names import member_name, sort_names
from nemo_birq.data.shards.plan import PLAN, SCRATCH
from nemo_birq.data.shards.recipes.folder import FolderRecipe
from nemo_birq.data.shards.recipes.manifest import ManifestRecipe
from nemo_birq.data.shards.segments import BuildError, Segment, Spoken
from nemo_birq.data.shards.verify import verify
from nemo_birq.data.shards.workers import run_jobs
from nemo_birq.data.shards.writer import ShardWriter, Utterance
from nemo_birq.utils.files import file_sha256
from nemo_birq.utils.progress import ProgressBars
from tests.helpers.models import SAMPLE_RATE
from tests.helpers.paths import CORPUS, ROOT
from tests.helpers.shards import lines, make, members, noise, write, write_lines

pytestmark = pytest.mark.unit


def contents(out: Path) -> dict[str, str]:
    """Returns the SHA-256 of all files of a build except hidden ones."""
    return {
        path.relative_to(out).as_posix(): file_sha256(path)
        for path in out.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve clips of 1 to 2.1 seconds."""
    root = tmp_path_factory.mktemp("audio")
    for i in range(12):
        write(root / f"speaker{i % 3}" / f"{i}.flac", noise(1 + 0.1 * i))
    return root


@pytest.fixture(scope="module")
def few(folder, tmp_path_factory) -> Path:
    """Four of the clips."""
    root = tmp_path_factory.mktemp("few")
    for i in range(4):
        shutil.copy(folder / f"speaker{i % 3}" / f"{i}.flac", root)
    return root


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory) -> Path:
    """The clips in three shards."""
    out = tmp_path_factory.mktemp("shards")
    make(FolderRecipe(folder), out, num_shards=3)
    return out


# --- what goes in comes out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["flac", "wav"])
def test_sixteen_bits_stay_as_they_are(tmp_path, codec):
    samples = np.concatenate([noise(1.0), np.array([[-32768], [32767], [0], [-1], [1]], dtype=np.int16)])
    write(tmp_path / "in" / "x.wav", samples)
    make(FolderRecipe(tmp_path / "in"), tmp_path / "out", codec=codec)
    np.testing.assert_array_equal(members(tmp_path / "out")[f"x.{codec}"], samples[:, 0])
    line = lines(tmp_path / "out")[f"x.{codec}"]
    assert line == {"audio_filepath": f"x.{codec}", "duration": round(len(samples) / SAMPLE_RATE, 6), "shard_id": 0}


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2)])
def test_other_rates_and_channels_become_16_khz_mono(tmp_path, rate, channels):
    """A tone keeps its frequency, length and, where both channels have it, its level."""
    tone = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(2 * rate) / rate)
    write(tmp_path / "in" / "x.wav", np.repeat(tone[:, None], channels, axis=1), rate)
    card = make(FolderRecipe(tmp_path / "in"), tmp_path / "out")
    samples = members(tmp_path / "out")["x.flac"] / 32768
    expected = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)
    assert len(samples) == len(expected)
    middle = slice(1000, -1000)  # away from the edges of the resampling filter
    np.testing.assert_allclose(samples[middle], expected[middle], atol=2e-3)
    assert card["sample_rates_seen"] == {str(rate): 1} and card["channels_seen"] == {str(channels): 1}


def test_mono_is_the_mean_of_the_channels(tmp_path):
    stereo = noise(1.0, channels=2) // 2 * 2
    write(tmp_path / "in" / "x.wav", stereo)
    make(FolderRecipe(tmp_path / "in"), tmp_path / "out")
    np.testing.assert_array_equal(members(tmp_path / "out")["x.flac"], np.rint(stereo.mean(axis=1)))


def test_segments_of_a_manifest_are_cut_where_it_says(tmp_path):
    samples = noise(10.0)
    write(tmp_path / "long.flac", samples)
    manifest = write_lines(
        tmp_path / "train.json",
        {"audio_filepath": "long.flac", "offset": 1.5, "duration": 2.0, "text": "first", "speaker": "s1", "lang": "fr"},
        {"audio_filepath": "long.flac", "offset": 3.5, "duration": 2.5, "text": "second", "id": 7},
        {"audio_filepath": "long.flac", "offset": 9.0},
    )
    make(ManifestRecipe([manifest]), tmp_path / "out")
    found, line = members(tmp_path / "out"), lines(tmp_path / "out")
    assert len(found) == 3
    for name, first, last in (("00001500-00003500", 1.5, 3.5), ("00003500-00006000", 3.5, 6.0), ("00009000-end", 9.0, 10.0)):
        expected = samples[int(first * SAMPLE_RATE) : int(last * SAMPLE_RATE), 0]
        np.testing.assert_array_equal(found[f"long-{name}.flac"], expected)
        assert line[f"long-{name}.flac"]["duration"] == last - first and "offset" not in line[f"long-{name}.flac"]
    assert (
        line["long-00001500-00003500.flac"] | {"text": "first", "speaker": "s1", "lang": "fr"}
        == line["long-00001500-00003500.flac"]
    )
    assert line["long-00003500-00006000.flac"]["source_id"] == 7  # "id" would overwrite that of a Lhotse cut


def test_long_files_are_cut_into_equal_pieces_without_text(tmp_path):
    samples = noise(7.0)
    write(tmp_path / "long.wav", samples)
    manifest = write_lines(tmp_path / "a.json", {"audio_filepath": "long.wav", "duration": 7.0, "text": "t", "speaker": "s"})
    card = make(ManifestRecipe([manifest]), tmp_path / "out", max_duration=3.0)
    found = members(tmp_path / "out")
    assert [len(found[name]) for name in sorted(found)] == [37333, 37333, 37334]  # 112,000 samples in three
    np.testing.assert_array_equal(np.concatenate([found[name] for name in sorted(found)]), samples[:, 0])
    assert all("text" not in line and line["speaker"] == "s" for line in lines(tmp_path / "out").values())
    assert card["long_recordings"] == {EQUAL: 3}


def test_long_recordings_are_cut_between_their_utterances():
    spoken = (Spoken(1, 3, "a"), Spoken(3, 6, "b"), Spoken(8, 9, "c"), Spoken(9, 21, "d"), Spoken(22, 24, "e"))
    assert join_utterances(spoken, 8.0) == [Spoken(1, 9, "a b c"), Spoken(9, 21, "d"), Spoken(22, 24, "e")]
    counts = Counter()
    segment = Segment("x.wav", "x", "x", line={"text": "a b c d e", "lang": "en"}, spoken=spoken)
    pieces = cut(segment, Header(25 * 100, 100, 1), 8.0, counts)
    assert [(p.start, p.frames, p.line.get("text")) for p in pieces] == [
        (100, 800, "a b c"), (900, 600, None), (1500, 600, None), (2200, 200, "e")]  # fmt: skip
    assert counts == {AT_UTTERANCES: 2, EQUAL: 2} and all(p.line["lang"] == "en" for p in pieces)
    (whole,) = cut(segment, Header(25 * 100, 100, 1), 25.0, counts)
    assert (whole.start, whole.frames, whole.line["text"], counts[WHOLE]) == (0, 2500, "a b c d e", 1)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10**6), st.floats(0.5, 40.0))
def test_equal_pieces_cover_a_file_without_gap(frames, longest):
    pieces = cut(Segment("x", "x", "x"), Header(frames, 1000, 1), longest, Counter())
    assert pieces[0].start == 0 and pieces[-1].start + pieces[-1].frames == frames
    assert all(one.start + one.frames == two.start for one, two in pairwise(pieces))
    assert max(p.frames for p in pieces) <= longest * 1000 and len({p.frames for p in pieces}) <= 2


NAMES = st.text(st.sampled_from("aB1/._-\\ é界sub2"), min_size=1, max_size=400)


def unique_names(names: list[str]) -> list[str]:
    alone = pa.array([member_name(name, name, ".flac") for name in names], pa.large_string())
    apart = sort_names(alone, lambda rows: [member_name(names[row], names[row], ".flac", apart=True) for row in rows])
    found = apart.names.to_pylist()
    assert [found[number] for number in apart.order] == sorted(found)
    return found


@settings(max_examples=200, deadline=None)
@given(st.lists(NAMES, unique=True))
def test_names_of_members_are_unique_and_harmless(names):
    found = unique_names(names)
    assert len(set(found)) == len(names)
    for member in found:
        stem = member.removesuffix(".flac")
        assert not set(stem) & set("/.\\ ") and stem and len(stem) < 170
        assert "-sub1" not in stem and "-sub2" not in stem
    assert sorted(unique_names(names[::-1])) == sorted(found)


def test_files_of_one_name_in_several_folders_all_arrive(tmp_path):
    clips = {name: noise(0.5) for name in ("a/x.wav", "b/x.wav", "a_x.wav", "a/x.flac", "a/x.y.wav")}
    for name, samples in clips.items():
        write(tmp_path / "in" / name, samples)
    make(FolderRecipe(tmp_path / "in"), tmp_path / "out")
    found = members(tmp_path / "out")
    assert len(found) == len(clips) and {"b_x.flac", "a_x_y.flac"} <= found.keys()
    assert {samples.tobytes() for samples in found.values()} == {samples.tobytes() for samples in clips.values()}


@pytest.mark.parametrize("codec", ["flac", "opus"])
def test_stock_nemo_reads_what_was_built(tmp_path, few, codec):
    make(FolderRecipe(few), tmp_path, codec=codec, num_shards=2, buckets=2)
    found = {}
    for bucket in ("bucket1", "bucket2"):
        reader = LazyNeMoTarredIterator(
            manifest_path=f"{tmp_path}/{bucket}/sharded_manifests/manifest__OP_0..1_CL_.json",
            tar_paths=f"{tmp_path}/{bucket}/audio__OP_0..1_CL_.tar",
        )
        found |= {cut.recording.id: cut.load_audio()[0] for cut in reader}
    expected = members(tmp_path)
    assert sorted(found) == sorted(expected) == [f"{i}.{codec}" for i in range(4)]
    for name, audio in found.items():
        np.testing.assert_allclose(audio, expected[name] / 32768, atol=1 / 32768)


# --- the same way every time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["flac", "opus"])
def test_any_number_of_processes_gives_the_same_bytes(tmp_path, few, codec):
    make(FolderRecipe(few), tmp_path / "one", codec=codec, num_shards=2, buckets=2)
    make(FolderRecipe(few), tmp_path / "two", codec=codec, num_shards=2, buckets=2, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_seed_decides_who_goes_where(tmp_path, folder, shards):
    make(FolderRecipe(folder), tmp_path, num_shards=3, seed=1)
    assert lines(tmp_path).keys() == lines(shards).keys()
    assert [line["shard_id"] for line in lines(tmp_path).values()] == [line["shard_id"] for line in lines(shards).values()]
    assert list(lines(tmp_path)) != list(lines(shards))


def test_the_place_of_the_input_does_not_matter(tmp_path, folder, shards):
    shutil.copytree(folder, tmp_path / "elsewhere")
    card = make(FolderRecipe(tmp_path / "elsewhere"), tmp_path / "out", num_shards=3)
    assert card["sha256"] == json.loads((shards / CARD).read_text())["sha256"]
    assert str(tmp_path) not in json.dumps(card)


def test_opus_has_a_serial_number_of_ours_and_the_same_sound():
    signal = noise(1.0)[:, 0] / 32768
    data = encode(signal, SAMPLE_RATE, "opus", serial=1234567)
    assert data[14:18] == (1234567).to_bytes(4, "little") and data == encode(signal, SAMPLE_RATE, "opus", serial=1234567)
    stock = io.BytesIO()
    soundfile.write(stock, signal, SAMPLE_RATE, format="OGG", subtype="OPUS")
    for one, two in zip(soundfile.read(io.BytesIO(data)), soundfile.read(io.BytesIO(stock.getvalue())), strict=True):
        np.testing.assert_array_equal(one, two)


def test_serial_numbers_come_from_the_names(tmp_path, few):
    make(FolderRecipe(few), tmp_path, codec="opus")
    with tarfile.open(tmp_path / "audio_0.tar") as tar:
        for member in tar:
            data = tar.extractfile(member).read()
            assert data[14:18] == zlib.crc32(member.name.encode()).to_bytes(4, "little")


def test_buckets_have_equal_hours_and_ordered_durations(tmp_path):
    for i in range(30):
        write(tmp_path / "in" / f"{i}.wav", noise(0.2 + 0.05 * i))
    card = make(FolderRecipe(tmp_path / "in"), tmp_path / "out", buckets=3, num_shards=2)
    durations = [[line["duration"] for line in lines(tmp_path / "out" / f"bucket{i}").values()] for i in (1, 2, 3)]
    assert max(durations[0]) < min(durations[1]) and max(durations[1]) < min(durations[2])
    assert card["bucket_limits_seconds"] == [max(d) for d in durations]
    total = sum(map(sum, durations))
    assert all(abs(sum(d) - total / 3) <= 1.65 for d in durations)  # the longest utterance
    assert sorted(card["shards"]) == [f"bucket{i}/audio_{j}.tar" for i in (1, 2, 3) for j in (0, 1)]
    assert_trainable(card, tmp_path / "out", 30)


@pytest.mark.parametrize("shards", [1, 4])
def test_the_keys_that_a_build_prints_are_those_of_a_training(tmp_path, shards):
    for i in range(8):
        write(tmp_path / "in" / f"{i}.wav", noise(0.5))
    assert_trainable(make(FolderRecipe(tmp_path / "in"), tmp_path / "out", num_shards=shards), tmp_path / "out", 8)


def test_the_keys_of_shards_in_a_store_are_urls():
    shown = training_keys({"shards": {"audio_0.tar": {}, "audio_1.tar": {}}}, "s3://bucket/shards")
    assert shown[1:] == [
        "  model.train_ds.manifest_filepath=s3://bucket/shards/sharded_manifests/manifest__OP_0..1_CL_.json",
        "  model.train_ds.tarred_audio_filepaths=s3://bucket/shards/audio__OP_0..1_CL_.tar",
    ]


def assert_trainable(card: dict, out: Path, utterances: int) -> None:
    """Checks that the keys, parsed by the shell and Hydra, open a loader of all utterances."""
    (printed,) = [shlex.split(" ".join(training_keys(card, out)[1:]))]
    node = OmegaConf.from_dotlist(printed).model.train_ds
    node.update(use_lhotse=True, batch_size=1, num_workers=0)
    assert len(build_dataloader(node, 16000, 0, 1, training=True)) == utterances


def test_the_card_says_what_is_in_the_shards(tmp_path):
    write(tmp_path / "in" / "a.wav", noise(2.0))
    write(tmp_path / "in" / "b.wav", noise(3.0, rate=8000), 8000)
    write(tmp_path / "in" / "short.wav", noise(0.05))
    loud = noise(1.0)
    loud[:160] = 32767
    write(tmp_path / "in" / "loud.wav", loud)
    card = make(FolderRecipe(tmp_path / "in"), tmp_path / "out", codec="wav", num_shards=2, seed=3)
    assert card["utterances"] == 3 and card["hours"] == round(6 / 3600, 6)
    assert card["sample_rates_seen"] == {"16000": 2, "8000": 1} and card["codec"] == "wav" and card["seed"] == 3
    assert card["too_short"] == {"utterances": 1, "hours": pytest.approx(0.05 / 3600), "below_seconds": 0.1}
    assert card["utterances_with_clipping"] == 1
    assert card["clipped_sample_share"] == pytest.approx(160 / (3 * 16000 + 3 * 8000), rel=1e-9)
    histogram = card["duration_histogram"]
    filled = {bound: n for bound, n in zip(histogram["bounds_seconds"], histogram["utterances"], strict=False) if n}
    assert filled == {1.0: 1, 2.0: 1, 3.0: 1}
    assert sum(histogram["hours"]) == pytest.approx(6 / 3600, abs=1e-6)
    for name, digest in card["sha256"].items():
        assert file_sha256(tmp_path / "out" / name) == digest
    assert len(card["sha256"]) == 5  # two shards, their manifests, the manifest of both
    assert (tmp_path / "out" / "durations.png").read_bytes().startswith(b"\x89PNG")


def test_building_starts_without_nemo_and_torch():
    code = "import sys, nemo_birq.data.shards.build; sys.exit(bool({'nemo', 'torch'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pile(tmp_path_factory) -> Path:
    """A manifest with a fault of every kind among sixteen good clips."""
    root = tmp_path_factory.mktemp("pile")
    entries = []
    for i in range(16):
        write(root / "audio" / f"good{i}.wav", noise(1.0))
        entries.append({"audio_filepath": f"audio/good{i}.wav", "duration": 1.0, "text": f"number {i}"})
    data = bytearray(write(root / "audio" / "corrupt.flac", noise(3.0)).read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    (root / "audio" / "corrupt.flac").write_bytes(data)
    for name in ("truncated.flac", "truncated.wav", "truncated.ogg"):
        path = write(root / "audio" / name, noise(3.0))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    write(root / "audio" / "empty.wav", noise(0.0))
    nan = noise(1.0) / np.float32(32768)
    nan[500:510] = np.nan
    write(root / "audio" / "nan.wav", nan, subtype="FLOAT")
    (root / "audio" / "zero.wav").touch()
    write(root / "outside.wav", noise(1.0))
    bad = ("corrupt.flac", "truncated.flac", "truncated.wav", "truncated.ogg", "empty.wav", "nan.wav", "zero.wav", "no.wav")
    entries += [{"audio_filepath": f"audio/{name}", "duration": 3.0 if "t" in name else 1.0} for name in bad]
    entries += [entries[0] | {"text": "again"}, {"audio_filepath": "../outside.wav", "duration": 1.0}, {"duration": 1.0}]
    entries += [{"audio_filepath": "audio/good1.wav", "offset": float("inf"), "duration": 0.5}]
    manifest = write_lines(root / "train.json", *entries)
    with open(manifest, "ab") as file:
        file.write(b'{"audio_filepath": "audio/good2.wav", "duration": 1.0, "text": "caf\xe9"}\n[1, 2]\nno json\n\n')
    return manifest


FAULTS = {
    "audio/corrupt.flac": ("unreadable", "decode"),
    "audio/truncated.flac": ("unreadable", "lost sync"),
    "audio/truncated.wav": ("truncated", "announces 96000 bytes of audio, the file has"),
    "audio/truncated.ogg": ("truncated", "but the segment is from 0.00 s to 3.00 s"),
    "audio/empty.wav": ("empty", "no audio"),
    "audio/nan.wav": ("not a number", "10 samples"),
    "audio/zero.wav": ("unreadable", "no audio that libsndfile reads"),
    "audio/no.wav": ("missing", "no such file"),
    "audio/good0.wav": ("duplicate", "same name"),
    "train.json, line 26": ("outside", "--root"),
    "train.json, line 27": ("missing", "no audio_filepath"),
    "train.json, line 28": ("empty", "offset=inf"),
    "train.json, line 29": ("not text", "not UTF-8: byte 0xe9"),
    "train.json, line 30": ("not text", "list"),
    "train.json, line 31": ("not text", "not JSON"),
}


def test_every_fault_is_named_and_nothing_else_is_lost(tmp_path, pile):
    with pytest.raises(BuildError, match=r"48\.4%.*\b1 duplicate\b.*max_skipped_share=0\.05"):
        make(ManifestRecipe([pile]), tmp_path / "out", num_shards=2, max_skipped_share=0.05)
    card = json.loads((tmp_path / "out" / CARD).read_text())
    found = {entry["name"]: entry for entry in card["skipped"]}
    assert found.keys() == FAULTS.keys()
    for name, (kind, reason) in FAULTS.items():
        assert found[name]["kind"] == kind and reason in found[name]["reason"], found[name]
    assert {line["text"] for line in lines(tmp_path / "out").values()} == {f"number {i}" for i in range(16)}
    assert verify(tmp_path / "out", True, 1, ProgressBars(disable=True)) == ([], 16)
    assert str(pile.parent) not in json.dumps(card)
    again = make(ManifestRecipe([pile]), tmp_path / "out", num_shards=2, max_skipped_share=0.5)
    assert again == card  # enough for who asks for it, without building again


def test_a_folder_with_a_bad_file_is_built_without_it(tmp_path):
    for i in range(4):
        write(tmp_path / "in" / f"{i}.flac", noise(0.5))
    (tmp_path / "in" / "torn.flac").write_bytes((tmp_path / "in" / "0.flac").read_bytes()[:4000])
    (tmp_path / "in" / "notes.txt").write_text("no audio")
    card = make(FolderRecipe(tmp_path / "in"), tmp_path / "out", max_skipped_share=0.2)
    assert card["utterances"] == 4 and [entry["name"] for entry in card["skipped"]] == ["torn.flac"]


def test_a_wav_of_unknown_length_is_whole(tmp_path):
    """ffmpeg writes such a header when it writes to a pipe."""
    data = bytearray(write(tmp_path / "x.wav", noise(1.0)).read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "x.wav").write_bytes(data)
    assert read_header(str(tmp_path / "x.wav")) == Header(16000, SAMPLE_RATE, 1)


def test_a_name_that_is_not_utf8(tmp_path):
    clip = write(tmp_path / "in" / "x.wav", noise(1.0))
    os.rename(clip, bytes(tmp_path / "in") + b"/caf\xe9.wav")
    card = make(FolderRecipe(tmp_path / "in"), tmp_path / "out")
    assert card["utterances"] == 1 and list(lines(tmp_path / "out")) == ["caf_.flac"]


def test_a_shard_that_would_be_empty_is_an_error(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "in" / f"{name}.wav", np.full((8000, 1), np.nan if name == "a" else 0.1), subtype="FLOAT")
    with pytest.raises(BuildError, match=r"\b1 shards.*audio_0\.tar.*dataset_card\.json"):
        make(FolderRecipe(tmp_path / "in"), tmp_path / "out", num_shards=2, max_skipped_share=1.0)
    assert json.loads((tmp_path / "out" / CARD).read_text())["utterances"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "mp3"}, "flac, opus, wav"),
        ({"codec": "opus", "sample_rate": 22050}, r"\bopus\b.*22050 Hz.*8000, 12000"),
        ({"min_duration": 5.0, "max_duration": 2.0}, r"min_duration 5\.0.*max_duration 2\.0"),
        ({"num_shards": 0}, r"num_shards\D*0\b"),
        ({"num_shards": 13}, r"\b12 .*\b13 shards"),
        ({"buckets": 50}, r"\b12 .*\b50 buckets"),
        ({"min_duration": 9.0}, r"\b0 unusable.*\b12 .*short"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_written(tmp_path, folder, options, message):
    with pytest.raises(BuildError, match=message):
        make(FolderRecipe(folder), tmp_path / "out", **options)
    assert not list((tmp_path / "out").rglob("*.tar")) and not (tmp_path / "out" / PLAN).exists()


def test_a_folder_without_audio_says_what_it_holds(tmp_path):
    (tmp_path / "a.pdf").touch()
    with pytest.raises(BuildError, match=r"\.pdf.*ffmpeg"):
        make(FolderRecipe(tmp_path), tmp_path / "out")


# --- interruptions ----------------------------------------------------------------------------------------------------


def wait_for_a_shard(process: subprocess.Popen, out: Path) -> list[str]:
    """Returns the names of the records of finished shards, as soon as there is one."""
    records = out / SCRATCH / "records"
    while not (records.is_dir() and list(records.glob("*.json"))) and process.poll() is None:
        time.sleep(0.01)
    return sorted(path.name for path in records.glob("*.json"))


@pytest.fixture(scope="module")
def much(tmp_path_factory) -> Path:
    """Enough audio to interrupt the build while it runs."""
    root = tmp_path_factory.mktemp("much")
    for i in range(24):
        write(root / f"{i}.flac", noise(10.0))
    return root


def command(source: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / "make_shards.py"), "folder", str(source), "--out", str(out), *options]


def test_a_killed_build_goes_on_where_it_was(tmp_path, much):
    """The build is killed without a chance to clean up. Files with final names are complete, and the result is the same."""
    out, options = tmp_path / "out", ("--workers", "2", "--num-shards", "24")
    process = subprocess.Popen(command(much, out, *options), cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_for_a_shard(process, out)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}/exe").exists() for child in children):  # no process is left alone
        assert time.monotonic() < deadline
        time.sleep(0.05)
    done = [f"audio_{int(path.stem)}.tar" for path in sorted((out / SCRATCH / "records").glob("*.json"))]
    assert 0 < len(done) < 24 and not (out / CARD).exists()
    for path in out.glob("audio_*.tar"):
        with tarfile.open(path) as tar:
            assert len(tar.getmembers()) == 1 and not any(path.read_bytes()[-1024:])

    with pytest.raises(BuildError, match=r"codec.*'flac'.*'wav'.*num_shards.*\b24\b.*\b3\b"):
        make(FolderRecipe(much), out, codec="wav", num_shards=3)
    (out / done[0]).write_bytes((out / done[0]).read_bytes()[:-5000])  # for any other reason, it is built again
    before = {name: (out / name).stat().st_mtime_ns for name in done[1:]}
    make(FolderRecipe(much), out, num_shards=24)
    assert {name: (out / name).stat().st_mtime_ns for name in done[1:]} == before
    make(FolderRecipe(much), tmp_path / "whole", num_shards=24)
    assert contents(out) == contents(tmp_path / "whole")
    assert not list(out.rglob("*.part")) and not (out / SCRATCH).exists()


def test_ctrl_c_stops_at_once_and_cleans_up(tmp_path, much):
    process = subprocess.Popen(
        command(much, tmp_path, "--workers", "2", "--num-shards", "3", "--codec", "opus"),
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )  # fmt: skip
    while not list(tmp_path.glob("*.part")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=20)
    assert process.returncode == 130 and "the same command resumes" in printed and "Traceback" not in printed, printed
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.glob("*.tar"))


def test_a_changed_input_is_noticed(tmp_path):
    write(tmp_path / "in" / "a.wav", noise(1.0))
    make(FolderRecipe(tmp_path / "in"), tmp_path / "out")
    write(tmp_path / "in" / "b.wav", noise(1.0))
    with pytest.raises(BuildError, match=r"files\D*1\D*2\D.*names_and_sizes"):
        make(FolderRecipe(tmp_path / "in"), tmp_path / "out")


def test_shards_of_somebody_else_are_not_touched(tmp_path, folder):
    (tmp_path / "audio_0.tar").write_bytes(b"mine")
    with pytest.raises(BuildError, match=r"build_plan\.json"):
        make(FolderRecipe(folder), tmp_path)
    assert (tmp_path / "audio_0.tar").read_bytes() == b"mine"


def test_a_full_disk_keeps_what_is_finished(tmp_path, folder, shards):
    """A limit on the size of files stands for the end of the disk."""
    limit = sorted(path.stat().st_size for path in shards.glob("*.tar"))[-1] - 1  # too little for the largest alone
    options = "--workers", "1", "--num-shards", "3"
    done = subprocess.run(
        command(folder, tmp_path, *options), cwd=ROOT, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 1 and "no space left" in done.stderr and "same command again" in done.stderr, done.stderr
    assert not list(tmp_path.rglob("*.part")) and not (tmp_path / CARD).exists()
    left = {path.name: path.read_bytes() for path in tmp_path.glob("*.tar")}
    assert len(left) < 3 and all(data == (shards / name).read_bytes() for name, data in left.items())
    printed = subprocess.run(command(folder, tmp_path, *options), cwd=ROOT, capture_output=True, text=True)
    assert printed.returncode == 0 and "12" in printed.stdout
    assert contents(tmp_path) == contents(shards)


def test_a_device_without_space_leaves_no_shard(tmp_path):
    (tmp_path / "audio_0.tar.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"), ShardWriter(tmp_path, 0) as writer:
        writer.add(Utterance("x.wav", bytes(100_000), {"duration": 1.0}))
    assert not list(tmp_path.glob("audio*")) and not list((tmp_path / "sharded_manifests").iterdir())


def test_two_builders_of_one_folder(tmp_path, folder):
    with FileLock(tmp_path / LOCK), pytest.raises(BuildError, match=rf"\bprocess\b.*{tmp_path}\b"):
        make(FolderRecipe(folder), tmp_path)


def test_a_process_that_the_system_kills_is_an_error():
    with pytest.raises(BuildError, match="--workers"):
        list(run_jobs(os._exit, [1, 1], 2, lambda done: None))


# --- verification -----------------------------------------------------------------------------------------------------


def problems(folder: Path, decode: bool = True) -> list[tuple[str, str, str]]:
    return [tuple(problem) for problem in verify(folder, decode, 1, ProgressBars(disable=True))[0]]


def rewrite(tar: Path, change) -> None:
    """Rewrites a tar after a ``change`` of its list of (name, data)."""
    with tarfile.open(tar) as archive:
        entries = [(member.name, archive.extractfile(member).read()) for member in archive]
    with tarfile.open(tar, "w") as archive:
        for name, data in change(entries):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def torn(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes(len(data) // 4) + data[len(data) // 2 + len(data) // 4 :]


def manifest_edit(change):
    def edit(out: Path) -> None:
        path = out / "sharded_manifests" / "manifest_1.json"
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return edit


def tar_edit(change):
    return lambda out: rewrite(out / "audio_1.tar", change)


def cut_tar(out: Path) -> None:
    path = out / "audio_1.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_end_of_tar(out: Path) -> None:
    path = out / "audio_1.tar"
    path.write_bytes(path.read_bytes().rstrip(b"\0") + b"\1")


FOUND = {
    "truncated tar": (cut_tar, "the tar file is damaged"),
    "tar without its end": (cut_end_of_tar, "the tar file is damaged"),
    "foreign member": (tar_edit(lambda e: [*e, ("README.txt", b"hello")]), "it is not an audio file"),
    "name that leaves the folder": (tar_edit(lambda e: [*e, ("../x.flac", e[0][1])]), "its name leaves the folder"),
    "absolute name": (tar_edit(lambda e: [*e, ("/x.flac", e[0][1])]), "its name leaves the folder"),
    "line without member": (tar_edit(lambda e: e[1:]), "the manifest has a line for it, the shard lacks it"),
    "member without line": (manifest_edit(lambda x: x[1:]), "the manifest has no line for it"),
    "corrupted member": (tar_edit(lambda e: [(e[0][0], torn(e[0][1])), *e[1:]]), "it cannot be decoded"),
    "empty member": (tar_edit(lambda e: [(e[0][0], b""), *e[1:]]), "it cannot be decoded"),
    "duplicate member": (tar_edit(lambda e: [*e, e[0]]), "two members have this name"),
    "duplicate line": (manifest_edit(lambda x: [*x, x[0]]), "two lines have this name"),
    "broken line": (manifest_edit(lambda x: [*x, "{\n"]), "it cannot be used: it is not JSON"),
    "wrong shard_id": (
        manifest_edit(lambda x: [x[0].replace('"shard_id": 1', '"shard_id": 7'), *x[1:]]),
        "its shard_id is 7",
    ),
    "wrong duration": (
        manifest_edit(lambda x: [x[0].replace('"duration": ', '"duration": 9'), *x[1:]]),
        "its manifest line ends at",
    ),
    "member of another shard": (
        lambda out: shutil.copy(out / "audio_0.tar", out / "audio_1.tar"),
        "audio_0.tar has a member of this name, too",
    ),
    "missing manifest": (lambda out: (out / "sharded_manifests/manifest_1.json").unlink(), "no manifest_1.json"),
    "missing whole manifest": (lambda out: (out / "tarred_audio_manifest.json").unlink(), "it does not exist"),
    "other whole manifest": (
        lambda out: (out / "tarred_audio_manifest.json").write_text("{}\n"),
        "its lines are not those of the manifests of the shards",
    ),
    "half shard": (lambda out: (out / "audio_3.tar.part").touch(), "left by an interrupted build"),
}


@pytest.mark.parametrize("fault", FOUND)
@pytest.mark.parametrize("with_card", [True, False])
def test_verification_finds(tmp_path, shards, fault, with_card):
    out = tmp_path / "out"
    shutil.copytree(shards, out)
    if not with_card:
        (out / CARD).unlink()
    assert problems(out) == []
    damage, message = FOUND[fault]
    damage(out)
    found = problems(out)
    assert any(message in problem for _, _, problem in found), found
    assert any(CARD in problem for _, _, problem in found) == (with_card and fault != "half shard")


def test_a_member_that_decodes_but_was_changed_is_found_by_its_checksum(tmp_path, shards):
    out = tmp_path / "out"
    shutil.copytree(shards, out)
    rewrite(out / "audio_2.tar", lambda e: [(e[0][0], e[1][1]), (e[1][0], e[0][1]), *e[2:]])
    assert ("audio_2.tar", "", f"its SHA-256 differs from the one in {CARD}") in problems(out, decode=False)


def test_shards_that_the_card_does_not_know_or_that_are_gone(tmp_path, shards):
    shutil.copytree(shards, tmp_path / "out")
    os.rename(tmp_path / "out" / "audio_2.tar", tmp_path / "out" / "audio_5.tar")
    found = problems(tmp_path / "out")
    assert ("audio_2.tar", "", f"{CARD} names it, but it does not exist") in found
    assert ("audio_5.tar", "", f"{CARD} does not name this shard") in found


def test_fast_verification_reads_headers_only(tmp_path, shards):
    shutil.copytree(shards, tmp_path / "out")
    (tmp_path / "out" / CARD).unlink()
    FOUND["corrupted member"][0](tmp_path / "out")
    assert problems(tmp_path / "out", decode=False) == [] != problems(tmp_path / "out")


def test_a_set_with_one_manifest_for_all_shards(tmp_path, shards):
    shutil.copytree(shards, tmp_path / "out")
    (tmp_path / "out" / CARD).unlink()
    shutil.rmtree(tmp_path / "out" / "sharded_manifests")
    assert problems(tmp_path / "out") == []
    whole = tmp_path / "out" / "tarred_audio_manifest.json"
    whole.write_text("".join(whole.read_text().splitlines(keepends=True)[:-1]))
    assert [problem for _, _, problem in problems(tmp_path / "out")] == ["the manifest has no line for it"]


def test_the_embedded_corpus_has_nothing_wrong():
    found, number = verify(CORPUS / "train", False, 1, ProgressBars(disable=True))
    assert found == [] and number == 480


def test_the_script_prints_a_table_and_fails(tmp_path, shards):
    shutil.copytree(shards, tmp_path / "out")
    verify_it = [sys.executable, str(ROOT / "scripts" / "verify_shards.py"), str(tmp_path / "out"), "--workers", "1"]
    good = subprocess.run(verify_it, capture_output=True, text=True, cwd=ROOT)
    assert good.returncode == 0 and "12 members, no problems" in good.stdout
    FOUND["foreign member"][0](tmp_path / "out")
    bad = subprocess.run(verify_it, capture_output=True, text=True, cwd=ROOT)
    assert bad.returncode == 1 and "README.txt" in bad.stdout and "it is not an audio file" in bad.stdout
