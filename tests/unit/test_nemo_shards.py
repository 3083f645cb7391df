"""Shards and manifests in every form that NeMo's converter writes, read through the index and as a stream."""

import gzip
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from omegaconf import OmegaConf

from nemo_birq.data.factory import build_dataloader
from nemo_birq.data.index import open_index
from nemo_birq.data.member_names import find_members
from nemo_birq.data.shards.recipes.manifest import ManifestRecipe
from nemo_birq.data.shards.verify import verify
from nemo_birq.data.sources import read_sources
from nemo_birq.data.tar_stream import MemberLines, StreamLine, UnreadableShardsError
from nemo_birq.utils.progress import ProgressBars
from tests.helpers.models import SAMPLE_RATE
from tests.helpers.shards import make, wav, write_lines

pytestmark = pytest.mark.unit
READERS = ("index", "stream")
SECONDS = 0.25


def tone(number: int, seconds: float = SECONDS) -> np.ndarray:
    signal, _ = soundfile.read(io.BytesIO(wav(seconds, pitch=200 + 40 * number)), dtype="float32")
    return signal


def flac(audio: bytes) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, *soundfile.read(io.BytesIO(audio)), format="FLAC")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, audio in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(audio)
            tar.addfile(member, io.BytesIO(audio))


def entry(number: int, **changes: object) -> dict:
    return {"audio_filepath": f"clip{number}.wav", "duration": SECONDS, "text": "", "shard_id": number // 3} | changes


class Converted:
    """Clips 0 to 5 in two shards, as the converter writes them."""

    def __init__(self, folder: Path, suffix: str = ".wav", first: int = 0, first_shard: int = 0, number: int = 6):
        self.folder = folder
        self.lines = [entry(i, shard_id=first_shard + (i - first) // 3) for i in range(first, first + number)]
        self.shards = range(first_shard, first_shard + number // 3)
        for shard in self.shards:
            clips = [
                i for i, line in zip(range(first, first + number), self.lines, strict=True) if line["shard_id"] == shard
            ]
            audio = {f"clip{i}{suffix}": wav(SECONDS, pitch=200 + 40 * i) for i in clips}
            write_tar(folder / f"audio_{shard}.tar", {k: flac(v) if suffix == ".flac" else v for k, v in audio.items()})
        self.write()

    def write(self) -> None:
        (self.folder / "sharded_manifests").mkdir(exist_ok=True)
        for shard in self.shards:
            lines = [line for line in self.lines if line["shard_id"] == shard]
            write_lines(self.folder / "sharded_manifests" / f"manifest_{shard}.json", *lines)
        write_lines(self.folder / "tarred_audio_manifest.json", *self.lines)

    @property
    def manifest(self) -> str:
        return f"{self.folder}/sharded_manifests/manifest__OP_{self.shards[0]}..{self.shards[-1]}_CL_.json"

    @property
    def tars(self) -> str:
        return f"{self.folder}/audio__OP_{self.shards[0]}..{self.shards[-1]}_CL_.tar"


def node(reader: str, manifest: object, tars: object, **changes: object):
    kind = {"use_lhotse": reader == "index", "is_tarred": reader == "stream"}
    return OmegaConf.create(
        kind | {"manifest_filepath": manifest, "tarred_audio_filepaths": tars, "batch_size": 1, "shuffle_n": 4} | changes
    )


def read(config, rank: int = 0, world_size: int = 1) -> list[tuple[str, np.ndarray]]:
    """Reads names and signals of an epoch."""
    loader = build_dataloader(config, SAMPLE_RATE, rank, world_size, training=False)
    found = []
    for batch in loader:
        assert batch.skipped == 0
        found += [(n, s[:k].numpy()) for n, s, k in zip(batch.ids, batch.signal, batch.signal_length, strict=True)]
    return found


def assert_clips(found: list[tuple[str, np.ndarray]], *numbers: int) -> None:
    """Checks that each clip occurs once, with its own audio."""
    assert Counter(name for name, _ in found) == Counter(f"clip{i}.wav" for i in numbers)
    for name, signal in found:
        np.testing.assert_allclose(signal, tone(int(name[4:-4])), atol=1e-4)


@pytest.mark.parametrize("reader", READERS)
def test_sharded_manifests_one_manifest_and_packed_ones(tmp_path, reader):
    made = Converted(tmp_path)
    whole = tmp_path / "tarred_audio_manifest.json"
    (tmp_path / "packed.json.gz").write_bytes(gzip.compress(whole.read_bytes()))
    for path in (tmp_path / "sharded_manifests").glob("*.json"):
        path.with_suffix(".json.gz").write_bytes(gzip.compress(path.read_bytes()))
    for manifest in (made.manifest, str(whole), str(tmp_path / "packed.json.gz"), f"{made.manifest}.gz"):
        assert_clips(read(node(reader, manifest, made.tars)), *range(6))


def test_a_packed_manifest_that_breaks_off_is_named(tmp_path):
    made = Converted(tmp_path)
    packed = gzip.compress(b"".join(json.dumps(entry(i % 3, text=f"{i}" * 50)).encode() + b"\n" for i in range(3000)))
    (tmp_path / "packed.json.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"manifest .*packed\.json\.gz is damaged: .*Copy it again"):
        read(node("index", str(tmp_path / "packed.json.gz"), made.tars))


@pytest.mark.parametrize("reader", READERS)
def test_another_order_of_lines_than_of_members(tmp_path, reader):
    made = Converted(tmp_path)
    made.lines.reverse()
    made.write()
    assert_clips(read(node(reader, made.manifest, made.tars)), *range(6))


@pytest.mark.parametrize("reader", READERS)
def test_concatenated_datasets_have_one_manifest_for_the_shards_of_two_folders(tmp_path, reader):
    base, new = Converted(tmp_path / "base"), Converted(tmp_path / "new", first=6, first_shard=2, number=3)
    manifest = write_lines(tmp_path / "new" / "tarred_audio_manifest_version_1.json", *base.lines, *new.lines)
    assert_clips(read(node(reader, str(manifest), [base.tars, new.tars])), *range(9))
    listed = [*read_sources(node(reader, str(manifest), [base.tars, new.tars]))[0].tar_paths]
    assert_clips(read(node(reader, str(manifest), listed)), *range(9))
    twice = node(reader, str(manifest), [base.tars, base.tars])
    with pytest.raises(ValueError, match=r"audio_0\.tar.*number 0"):
        read(twice)


@pytest.mark.parametrize("reader", READERS)
def test_buckets_as_a_list_for_each(tmp_path, reader):
    """Members of two buckets may have the same name, and are other audio."""
    one, two = Converted(tmp_path / "bucket1"), Converted(tmp_path / "bucket2", first=6)
    for shard in two.shards:
        number = 6 + 3 * shard
        write_tar(
            two.folder / f"audio_{shard}.tar",
            {f"clip{i - 6}.wav": wav(SECONDS, pitch=200 + 40 * i) for i in range(number, number + 3)},
        )
    two.lines = [line | {"audio_filepath": f"clip{i}.wav"} for i, line in enumerate(two.lines)]
    two.write()
    for manifests, tars in (
        ([[one.manifest], [two.manifest]], [[one.tars], [two.tars]]),
        ([one.manifest, two.manifest], [one.tars, two.tars]),
        (f"[[{one.manifest}],[{two.manifest}]]", f"[[{one.tars}],[{two.tars}]]"),
    ):
        found = read(node(reader, manifests, tars))
        assert Counter(name for name, _ in found) == Counter(2 * [f"clip{i}.wav" for i in range(6)])
        heard = sorted(min(range(12), key=lambda i: abs(signal - tone(i)).max()) for _, signal in found)
        assert heard == list(range(12))
    weighted = node("stream", [[one.manifest, 0.5], [two.manifest, 0.5]], [[one.tars], [two.tars]])
    with pytest.raises(ValueError, match="without weights; use_lhotse=true"):
        read(weighted)


@pytest.mark.parametrize("reader", READERS)
def test_forced_codec_changes_the_suffix_of_members_alone(tmp_path, reader):
    made = Converted(tmp_path, suffix=".flac")
    assert_clips(read(node(reader, made.manifest, made.tars)), *range(6))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_segments_of_one_member(tmp_path, reader, suffix):
    """The first line has the name of the member, the others -sub1, -sub2, ...; each its offset."""
    made = Converted(tmp_path, suffix)
    long = np.concatenate([tone(i) for i in (6, 7, 8)])
    buffer = io.BytesIO()
    soundfile.write(buffer, long, SAMPLE_RATE, format="WAV")
    audio = flac(buffer.getvalue()) if suffix == ".flac" else buffer.getvalue()
    write_tar(tmp_path / "audio_2.tar", {f"long{suffix}": audio})
    names = {"long.wav": 6, "long-sub1.wav": 7, "long-sub2.wav": 8}
    segments = [entry(i, audio_filepath=name, offset=(i - 6) * SECONDS, shard_id=2) for name, i in names.items()]
    made.lines += segments[::-1]
    made.shards = range(3)
    made.write()
    found = dict(read(node(reader, made.manifest, made.tars)))
    assert len(found) == 9
    for name, number in names.items():
        np.testing.assert_allclose(found[name], tone(number), atol=1e-4)


@pytest.mark.parametrize("reader", READERS)
def test_lines_that_skipme_marks_are_left_out(tmp_path, reader, caplog):
    """They may have any other problem."""
    made = Converted(tmp_path)
    for number in (1, 5):
        made.lines[number]["_skipme"] = True
    made.lines[2]["validation_status"] = "fail"
    made.lines[3]["validation_status"] = "pass"
    made.lines[5]["duration"] = 0
    made.lines[0]["_skipme"] = False
    made.write()
    for manifest in (made.manifest, str(tmp_path / "tarred_audio_manifest.json")):
        caplog.clear()
        assert_clips(read(node(reader, manifest, made.tars)), 0, 3, 4)
        assert "3 " in caplog.text and "left out, marked with _skipme" in caplog.text
        assert "cannot be used" not in caplog.text and "no line of its manifest names" not in caplog.text
    made.lines = [line | {"_skipme": 1} for line in made.lines]
    made.write()
    with pytest.raises(
        ValueError, match=r"(?s)_CL_\.json has no usable utterance:.*_skipme or validation_status leaves out 6 lines"
    ):
        read(node(reader, made.manifest, made.tars))


def test_single_files_that_skipme_marks_are_left_out(tmp_path):
    (tmp_path / "clip0.wav").write_bytes(wav(SECONDS, pitch=200))
    manifest = write_lines(tmp_path / "dev.json", entry(0), entry(1, _skipme=True))
    found = read(OmegaConf.create({"use_lhotse": True, "manifest_filepath": str(manifest), "batch_size": 1}))
    assert [name for name, _ in found] == [str(tmp_path / "clip0.wav")]


@pytest.mark.parametrize("reader", READERS)
def test_keys_that_are_attributes_of_a_cut_may_be_there(tmp_path, reader):
    made = Converted(tmp_path)
    others = ("id", "start", "channel", "supervisions", "features", "recording", "custom")
    made.lines = [line | dict.fromkeys(others, "x") | {"id": i} for i, line in enumerate(made.lines)]
    made.write()
    assert_clips(read(node(reader, made.manifest, made.tars)), *range(6))


@pytest.mark.parametrize(
    ("names", "members", "expected"),
    [
        (["a.wav"], ["a.wav", "a.flac"], {"a.wav": "a.wav"}),
        (["a.wav", "a-sub1.wav"], ["a.wav"], {"a.wav": "a.wav", "a-sub1.wav": "a.wav"}),
        (["a.wav", "a-sub1.wav"], ["a.opus", "a.json"], {"a.wav": "a.opus", "a-sub1.wav": "a.opus"}),
        (["a.wav"], ["a.flac", "a.opus"], {}),  # which one?
        (["a.wav", "a.mp3"], ["a.flac"], {}),
        (["a.wav", "a.mp3"], ["a.mp3"], {"a.mp3": "a.mp3"}),
        (["a.wav"], ["a.txt"], {}),
        (["b/a.wav"], ["a.flac"], {}),
    ],
)
def test_members_that_names_mean(names, members, expected):
    """The stream uses the first of two members with a stem; otherwise both readers agree."""
    assert find_members(names, members) == expected
    lines = MemberLines("audio_0.tar", [StreamLine(name, name, {}, True) for name in names])
    given = {line.name: member for member in members for line in lines.take(member)}
    if len({Path(member).stem for member in members}) == len(members):
        assert given == expected


def test_a_stream_that_cannot_know_which_member_is_meant_ends(tmp_path):
    assert find_members(["a-sub1.wav"], ["a.wav", "a-sub1.wav"]) == {"a-sub1.wav": "a-sub1.wav"}
    lines = MemberLines("audio_0.tar", [StreamLine("a-sub1.wav", "a-sub1", {}, True)])
    assert lines.take("a.wav")
    with pytest.raises(UnreadableShardsError, match=r"audio_0\.tar holds a\.wav and a-sub1\.wav.*use_lhotse=true"):
        lines.take("a-sub1.wav")


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_verification_knows_these_forms(tmp_path, suffix):
    made = Converted(tmp_path, suffix)
    made.lines[1] |= {"_skipme": True, "duration": 0, "offset": [1]}
    made.write()
    found, members = verify(tmp_path, True, 1, ProgressBars(disable=True))
    assert members == 6 and [problem for problem in found if problem.shard != "dataset_card.json"] == []
    write_tar(tmp_path / "audio_0.tar", {f"other{suffix}": wav(SECONDS)})
    found, _ = verify(tmp_path, True, 1, ProgressBars(disable=True))
    assert {problem.member for problem in found} >= {f"other{suffix}", "clip0.wav", "clip2.wav"}
    assert "clip1.wav" not in {problem.member for problem in found}


def test_shards_are_built_from_a_packed_manifest(tmp_path):
    for number in range(3):
        (tmp_path / f"clip{number}.wav").write_bytes(wav(SECONDS, pitch=200 + 40 * number))
    plain = write_lines(tmp_path / "train.json", *map(entry, range(3)))
    (tmp_path / "train.json.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert make(ManifestRecipe([tmp_path / "train.json.gz"]), tmp_path / "out")["utterances"] == 3


# --- shards that cannot be read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tars", "error", "message"),
    [
        ("{folder}/audio__OP_0..2_CL_.tar", FileNotFoundError, r"shard .*audio_2\.tar does not exist"),
        ("s3://bucket/audio__OP_0..2_CL_.tar", ValueError, r"s3://bucket/audio_0\.tar cannot be opened.*pipe:aws s3 cp"),
    ],
)
def test_shards_that_nothing_can_open_are_named_before_training(tmp_path, tars, error, message):
    Converted(tmp_path, number=9)
    config = node("stream", str(tmp_path / "tarred_audio_manifest.json"), tars.format(folder=tmp_path))
    (tmp_path / "audio_2.tar").unlink()
    with pytest.raises(error, match=message):
        read(config)


@pytest.mark.parametrize(
    ("command", "said"), [("cat", "No such file"), ("echo the token has expired >&2; false", "expired")]
)
def test_one_of_the_shards_that_a_command_cannot_write_ends_the_run(tmp_path, command, said):
    made = Converted(tmp_path)
    (tmp_path / "audio_1.tar").unlink()
    audio = f"{tmp_path}/audio__OP_0..1_CL_.tar"
    tars = f'pipe:f={audio}; if [ -f "$f" ]; then cat "$f" 2>/dev/null; else {command} "$f"; fi'
    with pytest.raises(
        UnreadableShardsError, match=rf"(?s)shard pipe:.*audio_1\.tar.*cannot be opened: .*status 1: .*{said}"
    ):
        read(node("stream", made.manifest, tars))


@pytest.mark.parametrize("content", [b"", b"<html>403 Forbidden</html>" * 100])
def test_a_shard_that_is_no_tar_file_ends_the_run(tmp_path, content):
    made = Converted(tmp_path)
    (tmp_path / "audio_1.tar").write_bytes(content)
    with pytest.raises(UnreadableShardsError, match=r"audio_1\.tar cannot be opened: \S"):
        read(node("stream", made.manifest, made.tars))


def test_a_pass_that_gives_nothing_ends_the_run(tmp_path):
    made = Converted(tmp_path)
    for shard in made.shards:
        write_tar(tmp_path / f"audio_{shard}.tar", {"other.wav": wav(0.1)})
    with pytest.raises(UnreadableShardsError, match=r"none of the utterances.*audio_0\.tar"):
        read(node("stream", made.manifest, made.tars))


@pytest.mark.parametrize("breaks", ["in a member", "between members", "in a command"])
def test_utterances_that_a_shard_lacks_are_counted_as_its_manifest_says(tmp_path, breaks):
    """Two of the three of the second shard."""
    made = Converted(tmp_path)
    path = tmp_path / "audio_1.tar"
    with tarfile.open(path) as tar:
        second = tar.getmembers()[1]
    if breaks == "between members":
        write_tar(path, {"clip3.wav": wav(SECONDS, pitch=320)})
    else:
        path.write_bytes(path.read_bytes()[: second.offset_data + 100])
    tars = [f"pipe:cat {tmp_path}/audio_{shard}.tar" for shard in made.shards] if breaks == "in a command" else made.tars
    loader = build_dataloader(node("stream", made.manifest, tars, batch_size=6, shuffle=False), SAMPLE_RATE, 0, 1, False)
    batch = next(iter(loader))
    assert batch.skipped == 2 and set(batch.ids) == {f"clip{i}.wav" for i in range(4)}


def test_shards_of_a_worker_without_an_utterance_of_the_right_length_are_named(tmp_path):
    made = Converted(tmp_path)
    made.lines = [line | {"duration": 9.0} if line["shard_id"] else line for line in made.lines]
    made.write()
    with pytest.raises(ValueError, match=r"audio_1\.tar, the shards of worker 0 of rank 1, .*max_duration"):
        read(node("stream", made.manifest, made.tars, max_duration=1.0), 0, 2)
    assert_clips(read(node("stream", made.manifest, made.tars, max_duration=1.0, batch_size=3)), 0, 1, 2)


def test_index_of_an_earlier_version_is_not_read(tmp_path):
    """It would include lines with _skipme."""
    made = Converted(tmp_path)
    index = open_index(read_sources(node("index", made.manifest, made.tars))[0])
    assert index.num_left_out == 0 and len(index) == 6
