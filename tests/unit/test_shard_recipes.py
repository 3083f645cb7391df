"""Recipes on small trees that have the layout and the names of the real corpora."""

import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from nemo_birq.data.shards.recipes.ami import AmiRecipe
from nemo_birq.data.shards.recipes.cuts import CutsRecipe
from nemo_birq.data.shards.recipes.folder import FolderRecipe
from nemo_birq.data.shards.recipes.librispeech import TRAIN_960, LibriSpeechRecipe
from nemo_birq.data.shards.recipes.manifest import ManifestRecipe
from nemo_birq.data.shards.recipes.yodas import YodasRecipe
from nemo_birq.data.shards.segments import BuildError
from tests.helpers.models import SAMPLE_RATE
from tests.helpers.shards import lines, listed, make, members, noise, write, write_lines

pytestmark = pytest.mark.unit


# --- LibriSpeech ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def librispeech(tmp_path_factory):
    root = tmp_path_factory.mktemp("librispeech") / "LibriSpeech"
    for part, speaker in zip((*TRAIN_960, "dev-clean"), ("19", "14", "20", "84"), strict=True):
        chapter = root / part / speaker / "198"
        for i in range(2):
            write(chapter / f"{speaker}-198-{i:04d}.flac", noise(1.0 + i))
        (chapter / f"{speaker}-198.trans.txt").write_text(
            f"{speaker}-198-0000 NORTHANGER ABBEY\n{speaker}-198-0001 THIS LITTLE WORK\n"
        )
    return root


def test_librispeech(tmp_path, librispeech):
    card = make(LibriSpeechRecipe(librispeech, TRAIN_960), tmp_path)
    found = lines(tmp_path)
    assert sorted(found) == sorted(f"{speaker}-198-000{i}.flac" for speaker in ("19", "14", "20") for i in (0, 1))
    assert found["19-198-0001.flac"] == {
        "audio_filepath": "19-198-0001.flac", "duration": 2.0, "text": "THIS LITTLE WORK", "speaker": "19", "lang": "en",
        "part": "train-clean-100", "shard_id": 0}  # fmt: skip
    assert card["hours"] == pytest.approx(9 / 3600, abs=1e-6)
    dev = listed(LibriSpeechRecipe(librispeech, ("dev-clean",), lower_case=True), tmp_path).segments
    assert [segment.line["text"] for segment in dev] == ["northanger abbey", "this little work"]


def test_librispeech_with_faults(tmp_path, librispeech):
    chapter = tmp_path / "dev-other" / "84" / "198"
    good = write(chapter / "84-198-0000.flac", noise(1.0))
    (chapter / "84-198-0001.flac").write_bytes(good.read_bytes()[:20])
    write(chapter / "84-198-0003.flac", noise(1.0))
    (chapter / "84-198.trans.txt").write_bytes(
        b"84-198-0000 GOOD\n84-198-0001 TORN\n84-198-0002 GONE\n84-198-0003 CAF\xc9\n84-198-0004\n"
    )
    found = listed(LibriSpeechRecipe(tmp_path, ("dev-other",)), tmp_path)
    assert [segment.name for segment in found.segments] == ["84-198-0000"]
    assert {entry.name: entry.kind for entry in found.skipped} == {
        "84-198-0001": "unreadable", "84-198-0002": "missing", "84-198-0003": "not text", "84-198-0004": "not text"
    }  # fmt: skip
    with pytest.raises(FileNotFoundError, match=r"test-clean.*lhotse download librispeech"):
        LibriSpeechRecipe(tmp_path, ("test-clean",)).describe()


# --- AMI --------------------------------------------------------------------------------------------------------------

MEETINGS = """<?xml version="1.0"?>
<nite:root xmlns:nite="http://nite.sourceforge.net/">
  <meeting observation="ES2002a" duration="30"><speaker nxt_agent="A" global_name="FEE005" channel="0"/>
    <speaker nxt_agent="B" global_name="MEE006" channel="1"/></meeting>
  <meeting observation="ES2011a" duration="30"><speaker nxt_agent="A" global_name="FEE041" channel="0"/></meeting>
</nite:root>"""


def annotate(root: Path, meeting: str, agent: str, start: float, words: list[str]) -> None:
    """Writes a segment of words of half a second each, in the form of the manual annotations."""
    head = '<nite:root xmlns:nite="http://nite.sourceforge.net/">'
    end = start + len(words) / 2
    for kind, body in (
        ("segments", f'<segment transcriber_start="{start - 0.1}" transcriber_end="{end + 0.1}"/>'),
        ("words", "".join(f'<w starttime="{start + i / 2}" endtime="{start + (i + 1) / 2}">{word}</w>'
                          for i, word in enumerate(words))),
    ):  # fmt: skip
        path = root / kind / f"{meeting}.{agent}.{kind}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{head}{body}</nite:root>")


@pytest.fixture(scope="module")
def ami(tmp_path_factory):
    root = tmp_path_factory.mktemp("ami")
    annotations = root / "ami_public_manual_1.6.2"
    (annotations / "corpusResources").mkdir(parents=True)
    (annotations / "corpusResources" / "meetings.xml").write_text(MEETINGS)
    annotate(annotations, "ES2002a", "A", 2.0, ["Okay", "mm-hmm", "it's", "L_C_D"])
    annotate(annotations, "ES2002a", "B", 3.0, ["Yeah"])
    annotate(annotations, "ES2011a", "A", 1.0, ["Right"])
    for meeting, headsets in (("ES2002a", 2), ("ES2011a", 1)):
        audio = root / "wav_db" / meeting / "audio"
        for i in range(headsets):
            write(audio / f"{meeting}.Headset-{i}.wav", noise(6.0))
        write(audio / f"{meeting}.Array1-01.wav", noise(6.0))
    return root


def wav_part(path: Path, start: float, end: float) -> np.ndarray:
    return soundfile.read(path, dtype="int16", start=int(start * SAMPLE_RATE), stop=int(end * SAMPLE_RATE))[0]


def test_ami_headsets_and_distant_microphone(tmp_path, ami):
    audio = ami / "wav_db" / "ES2002a" / "audio"
    make(AmiRecipe(ami, "ihm", "train"), tmp_path / "ihm")
    found, line = members(tmp_path / "ihm"), lines(tmp_path / "ihm")
    assert sorted(found) == ["ES2002a-0-0.flac", "ES2002a-1-0.flac"]
    np.testing.assert_array_equal(found["ES2002a-0-0.flac"], wav_part(audio / "ES2002a.Headset-0.wav", 2.0, 4.0))
    np.testing.assert_array_equal(found["ES2002a-1-0.flac"], wav_part(audio / "ES2002a.Headset-1.wav", 3.0, 3.5))
    expected = {"text": "OKAY MM-HMM IT'S L C D", "speaker": "FEE005", "gender": "F", "lang": "en", "duration": 2.0}
    assert line["ES2002a-0-0.flac"] | expected == line["ES2002a-0-0.flac"]

    make(AmiRecipe(ami, "sdm", "train"), tmp_path / "sdm")
    by_text = {line["text"]: members(tmp_path / "sdm")[name] for name, line in lines(tmp_path / "sdm").items()}
    np.testing.assert_array_equal(by_text["YEAH"], wav_part(audio / "ES2002a.Array1-01.wav", 3.0, 3.5))
    assert len(by_text) == 2


def test_ami_splits_and_text(tmp_path, ami):
    (dev,) = listed(AmiRecipe(ami, "ihm", "dev"), tmp_path).segments
    assert dev.name == "ES2011a-0-0" and dev.line["text"] == "RIGHT"
    upper = listed(AmiRecipe(ami, "ihm", "train", text="upper"), tmp_path).segments
    assert sorted(segment.line["text"] for segment in upper) == ["OKAY MM-HMM IT'S L_C_D", "YEAH"]
    assert listed(AmiRecipe(ami, "ihm", "test"), tmp_path).segments == []


def test_ami_annotations_may_be_packed(tmp_path, ami):
    with zipfile.ZipFile(tmp_path / "ami_public_manual_1.6.2.zip", "w") as packed:
        for path in (ami / "ami_public_manual_1.6.2").rglob("*.xml"):
            packed.write(path, path.relative_to(ami / "ami_public_manual_1.6.2"))
    (tmp_path / "wav_db").symlink_to(ami / "wav_db")
    with pytest.raises(FileNotFoundError, match="lhotse download ami --mic sdm"):
        AmiRecipe(tmp_path / "nowhere", "sdm").describe()
    packed = listed(AmiRecipe(tmp_path, "sdm"), tmp_path)
    assert [s.line for s in packed.segments] == [s.line for s in listed(AmiRecipe(ami, "sdm"), tmp_path).segments] != []


def test_ami_with_faults(tmp_path, ami):
    audio = tmp_path / "wav_db" / "ES2002a" / "audio"
    write(audio / "ES2002a.Headset-1.wav", noise(6.0))  # the first headset is missing: channels would be mixed up
    torn = tmp_path / "wav_db" / "ES2005a" / "audio" / "ES2005a.Headset-0.wav"
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b"RIFF")
    (tmp_path / "ami_public_manual_1.6.2").symlink_to(ami / "ami_public_manual_1.6.2")
    found = listed(AmiRecipe(tmp_path, "ihm"), tmp_path)
    assert found.segments == []
    assert {entry.name: entry.kind for entry in found.skipped} == {"ES2002a": "missing", "ES2005a": "unreadable"}


def test_ami_with_damaged_annotations(tmp_path, ami):
    shutil.copytree(ami, tmp_path, dirs_exist_ok=True)
    (tmp_path / "ami_public_manual_1.6.2" / "words" / "ES2002a.A.words.xml").unlink()
    with pytest.raises(BuildError, match=r"ami_public_manual_1\.6\.2.*FEE005"):
        listed(AmiRecipe(tmp_path), tmp_path)


# --- YODAS ------------------------------------------------------------------------------------------------------------


def pack(path: Path, clips: dict[str, np.ndarray], rate: int) -> None:
    """Writes a .tar.gz of wav files whose names begin with ./ like those on the hub."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, samples in clips.items():
            buffer = io.BytesIO()
            soundfile.write(buffer, samples, rate, format="WAV")
            member = tarfile.TarInfo(f"./{name}.wav")
            member.size = buffer.tell()
            tar.addfile(member, io.BytesIO(buffer.getvalue()))


def test_yodas_with_one_file_for_each_utterance(tmp_path):
    data = tmp_path / "yodas" / "data"
    clips = {"lrPm-jDCo_o-00000-00000000-00000200": noise(2.0), "lrPm-jDCo_o-00001-00000250-00000400": noise(1.5)}
    pack(data / "en000" / "audio" / "00000000.tar.gz", clips, SAMPLE_RATE)
    (data / "en000" / "text").mkdir()
    (data / "en000" / "text" / "00000000.txt").write_text(
        "lrPm-jDCo_o-00000-00000000-00000200 Hello there.\ngone-00000-00000000-00000100 no audio\n"
    )
    pack(data / "fr100" / "audio" / "00000000.tar.gz", {"abc-00000-00000000-00000100": noise(1.0)}, SAMPLE_RATE)
    card = make(YodasRecipe(tmp_path / "yodas"), tmp_path / "out", max_skipped_share=0.5)
    found, line = members(tmp_path / "out"), lines(tmp_path / "out")
    assert len(found) == 3 and sorted(entry["name"] for entry in card["skipped"]) == ["en000/gone-00000-00000000-00000100",
                                                                                     "fr100/00000000.txt"]  # fmt: skip
    for name, samples in clips.items():
        np.testing.assert_array_equal(found[f"{name}.flac"], samples[:, 0])
    first, second = (line[f"{name}.flac"] for name in clips)
    assert (first["text"], first["lang"], first["video"]) == ("Hello there.", "en", "lrPm-jDCo_o") and "text" not in second
    make(YodasRecipe(tmp_path / "yodas", ("fr100",)), tmp_path / "french", max_skipped_share=0.5)
    assert [entry["lang"] for entry in lines(tmp_path / "french").values()] == ["fr"]
    with pytest.raises(BuildError, match=r"\bde000\b.*en000, fr100"):
        YodasRecipe(tmp_path / "yodas", ("de000",)).describe()


@pytest.fixture
def yodas2(tmp_path):
    """A video of 20 seconds with captions, a short one, and one without captions; 24 kHz."""
    subset = tmp_path / "yodas2" / "data" / "en000"
    clips = {"vid-eo1": noise(20.0, 24000), "short": noise(4.0, 24000), "silent": noise(9.0, 24000)}
    pack(subset / "audio" / "00000000.tar.gz", clips, 24000)
    captions = {"vid-eo1": {"vid-eo1-00001-00000300-00000600": "two", "vid-eo1-00000-00000100-00000300": "one",
                            "vid-eo1-00002-00001000-00001400": "three"},
                "short": {"short-00000-00000050-00000250": "short"}, "silent": {}}  # fmt: skip
    (subset / "text").mkdir()
    entries = [{"audio_id": video, "text": text} for video, text in captions.items()]
    (subset / "text" / "00000000.json").write_text(json.dumps(entries))
    return tmp_path / "yodas2"


def test_yodas2_videos_are_cut_between_captions(tmp_path, yodas2):
    card = make(YodasRecipe(yodas2), tmp_path / "out", max_duration=6.0)
    texts = {name: (line["duration"], line.get("text")) for name, line in lines(tmp_path / "out").items()}
    assert texts == {
        "vid-eo1-00001000-00006000.flac": (5.0, "one two"),
        "vid-eo1-00010000-00014000.flac": (4.0, "three"),
        "short.flac": (4.0, "short"),
        "silent-00000000-00004500.flac": (4.5, None),
        "silent-00004500-00009000.flac": (4.5, None),
    }
    assert card["long_recordings"] == {
        "at utterance boundaries": 2,
        "into equal pieces, without their text": 2,
        "not cut": 1,
    }
    assert card["sample_rates_seen"] == {"24000": 5}


def test_yodas2_with_a_truncated_archive_and_a_name_that_leaves_it(tmp_path, yodas2):
    audio = yodas2 / "data" / "en000" / "audio"
    pack(audio / "00000001.tar.gz", {"../../evil": noise(1.0), "good": noise(1.0), "late": noise(9.0)}, SAMPLE_RATE)
    (yodas2 / "data" / "en000" / "text" / "00000001.json").write_text('[{"audio_id": "good", "text": {}}, 3]')
    data = (audio / "00000001.tar.gz").read_bytes()
    (audio / "00000001.tar.gz").write_bytes(data[: len(data) // 2])
    found = listed(YodasRecipe(yodas2), tmp_path)
    assert sorted(segment.name for segment in found.segments) == ["good", "short", "silent", "vid-eo1"]
    assert {entry.name: entry.kind for entry in found.skipped} == {
        "en000/00000001/evil.wav": "outside", "en000/00000001.tar.gz": "truncated", "en000/00000001.json": "not text"
    }  # fmt: skip
    assert not list(tmp_path.rglob("evil*"))


# --- the others -------------------------------------------------------------------------------------------------------


def test_cuts(tmp_path):
    path = write(tmp_path / "audio" / "stereo.wav", noise(10.0, channels=2))
    recording = Recording.from_file(path, recording_id="meeting")
    words = [SupervisionSegment(f"s{i}", "meeting", 1.0 + 2 * i, 2.0, text=t, speaker="x", language="English")
             for i, t in enumerate(("one", "two", "three"))]  # fmt: skip
    short = MonoCut("short", 0.5, 2.0, 1, recording=recording, custom={"snr": 3.5})
    long = MonoCut("long", 1.0, 8.0, 0, recording=recording, supervisions=words)
    fast = MonoCut("fast", 0, 2.0, 0, recording=recording.perturb_speed(1.1))
    mixed = short.mix(long).with_id("mixed")
    cuts = tmp_path / "cuts.jsonl.gz"
    CutSet.from_cuts([short, long, fast, mixed]).to_file(cuts)
    card = make(CutsRecipe(cuts), tmp_path / "out", max_duration=5.0, max_skipped_share=0.5)
    found, line = members(tmp_path / "out"), lines(tmp_path / "out")
    assert {entry["name"]: entry["kind"] for entry in card["skipped"]} == {"fast": "unsupported", "mixed": "unsupported"}
    np.testing.assert_array_equal(found["short.flac"], wav_part(path, 0.5, 2.5)[:, 1])
    assert line["short.flac"]["snr"] == 3.5 and "text" not in line["short.flac"]
    # The supervisions lie at 2 to 4, 4 to 6 and 6 to 8 seconds of the file: two of them fit into five seconds.
    np.testing.assert_array_equal(found["long-00002000-00006000.flac"], wav_part(path, 2.0, 6.0)[:, 0])
    np.testing.assert_array_equal(found["long-00006000-00008000.flac"], wav_part(path, 6.0, 8.0)[:, 0])
    assert [line[f"long-{times}.flac"]["text"] for times in ("00002000-00006000", "00006000-00008000")] == [
        "one two",
        "three",
    ]
    whole = make(CutsRecipe(cuts), tmp_path / "whole", max_skipped_share=0.5)
    assert lines(tmp_path / "whole")["long.flac"]["text"] == "one two three" and whole["utterances"] == 2


def test_what_is_no_file_of_cuts(tmp_path):
    for name, content in (("a.jsonl.gz", b"no gzip"), ("b.jsonl", b"no json\n"), ("c.jsonl", b'{"audio_filepath": "x"}\n')):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BuildError, match=rf"{name}.*Lhotse cuts"):
            listed(CutsRecipe(tmp_path / name), tmp_path)


def test_a_manifest_elsewhere_and_absolute_paths(tmp_path):
    write(tmp_path / "audio" / "a.wav", noise(1.0))
    write(tmp_path / "other" / "b.wav", noise(1.0))
    (tmp_path / "lists").mkdir()
    manifest = write_lines(
        tmp_path / "lists" / "x.json",
        {"audio_filepath": "a.wav", "duration": 1.0},
        {"audio_filepath": str(tmp_path / "other" / "b.wav"), "duration": 1.0},
        {"audio_filepath": "../other/b.wav", "duration": 1.0},
    )
    found = listed(ManifestRecipe([manifest], tmp_path / "audio"), tmp_path)
    assert [segment.path for segment in found.segments] == [str(tmp_path / "audio/a.wav"), str(tmp_path / "other/b.wav")]
    assert [entry.kind for entry in found.skipped] == ["outside"]
    with pytest.raises(FileNotFoundError, match=r"no\.json"):
        ManifestRecipe([tmp_path / "no.json"]).describe()


def test_a_folder_is_read_at_any_depth_and_in_any_format(tmp_path):
    formats = {"a/1.WAV": {}, "a/b/2.flac": {}, "3.opus": {"format": "OGG", "subtype": "OPUS"}, "4.mp3": {}, "5.aiff": {}}
    for name, options in formats.items():
        write(tmp_path / name, noise(1.0), **options)
    (tmp_path / "6.raw").write_bytes(bytes(1000))
    found = listed(FolderRecipe(tmp_path), tmp_path)
    assert sorted(segment.identity for segment in found.segments) == sorted(formats)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        FolderRecipe(tmp_path / "nowhere").describe()


def test_links_to_folders_are_followed_once(tmp_path):
    write(tmp_path / "in" / "z" / "x.wav", noise(1.0))
    (tmp_path / "in" / "part").symlink_to(tmp_path / "in" / "z")
    (tmp_path / "in" / "z" / "up").symlink_to(tmp_path / "in")  # round and round
    (tmp_path / "given").symlink_to(tmp_path / "in")
    for root in ("in", "given"):
        found = listed(FolderRecipe(tmp_path / root), tmp_path)
        assert [segment.identity for segment in found.segments] == ["part/x.wav"] and found.skipped == []


def test_links_that_lead_out_of_the_input_are_left_out_and_counted(tmp_path):
    """Links lead to a file, to a folder, and through a link inside; a link of a corpus is followed."""
    private = write(tmp_path / "private" / "x.wav", noise(1.0))
    (tmp_path / "private" / "notes.txt").write_text("mine")
    write(tmp_path / "in" / "good.wav", noise(1.0))
    (tmp_path / "in" / "file.wav").symlink_to(private)
    (tmp_path / "in" / "notes.txt").symlink_to(private.with_name("notes.txt"))
    (tmp_path / "in" / "folder").symlink_to(private.parent)
    (tmp_path / "in" / "again.wav").symlink_to(tmp_path / "in" / "file.wav")
    (tmp_path / "in" / "up").symlink_to("..")
    manifest = write_lines(
        tmp_path / "in" / "x.json",
        {"audio_filepath": "good.wav"}, {"audio_filepath": "file.wav"}, {"audio_filepath": "folder/x.wav"},
        {"audio_filepath": str(tmp_path / "in" / "file.wav")},
    )  # fmt: skip
    found = listed(FolderRecipe(tmp_path / "in"), tmp_path)
    assert [segment.identity for segment in found.segments] == ["good.wav"]
    assert [(entry.name, entry.kind) for entry in found.skipped] == [
        (name, "outside") for name in ("again.wav", "file.wav", "folder", "up")
    ]
    card = make(FolderRecipe(tmp_path / "in"), tmp_path / "out", max_skipped_share=1.0)
    assert list(members(tmp_path / "out")) == ["good.flac"] and card["skipped_kinds"] == {"outside": 4}
    assert str(tmp_path) not in json.dumps(card)
    found = listed(ManifestRecipe([manifest]), tmp_path)
    assert [Path(segment.path).name for segment in found.segments] == ["good.wav", "file.wav"]
    assert [(entry.name, entry.kind) for entry in found.skipped] == [
        ("x.json, line 2", "outside"), ("x.json, line 3", "outside")
    ]  # fmt: skip
    (tmp_path / "in" / "good.wav").unlink()
    with pytest.raises(BuildError, match="in holds no audio, but 4 links that lead out of it: give the folder"):
        listed(FolderRecipe(tmp_path / "in"), tmp_path)


def test_librispeech_may_be_a_tree_of_links(tmp_path, librispeech):
    (tmp_path / "LibriSpeech").mkdir()
    for part in librispeech.iterdir():
        (tmp_path / "LibriSpeech" / part.name).symlink_to(part)
    found = listed(LibriSpeechRecipe(tmp_path / "LibriSpeech", ("dev-clean",)), tmp_path)
    assert len(found.segments) == 2 and found.skipped == []
