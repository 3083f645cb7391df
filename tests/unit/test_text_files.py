"""Text inputs of other tools: byte order marks, Windows line ends, numbers that JSON does not have."""

import io
import json
import math
import tarfile

import pytest
from omegaconf import OmegaConf

from nemo_birq.data.json_lines import parse_lines, to_line
from nemo_birq.data.manifests import read_manifest
from nemo_birq.data.shards.recipes.cuts import CutsRecipe
from nemo_birq.data.shards.recipes.librispeech import LibriSpeechRecipe
from nemo_birq.data.shards.recipes.manifest import ManifestRecipe
from nemo_birq.data.shards.recipes.yodas import YodasRecipe
from nemo_birq.data.sources import Source, read_sources
from nemo_birq.evaluation.label_quality.alignments import read_alignments
from nemo_birq.extraction.store import PartStore
from nemo_birq.scoring.ngram_command import read_texts
from nemo_birq.utils.files import read_json
from nemo_birq.utils.text_files import refuse_mark
from tests.helpers.shards import lines, listed, make, noise, wav, write

pytestmark = pytest.mark.unit

MARK = b"\xef\xbb\xbf"
WINDOWS = {"plain": lambda text: text.encode(), "marked": lambda text: MARK + text.replace("\n", "\r\n").encode()}


@pytest.mark.parametrize("form", WINDOWS.values(), ids=WINDOWS)
def test_manifests_and_json(tmp_path, form):
    entries = [{"audio_filepath": f"{i}.wav", "duration": 1.0, "text": f"é {i}"} for i in range(3)]
    content = form("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))
    (tmp_path / "a.json").write_bytes(content)
    assert read_manifest(str(tmp_path / "a.json")) == entries
    (tmp_path / "joined.json").write_bytes(content + content)  # cat of two files: a mark in the middle
    assert read_manifest(str(tmp_path / "joined.json")) == 2 * entries
    (tmp_path / "list.yaml").write_bytes(form(f"- type: nemo\n  manifest_filepath: {tmp_path}/a.json\n"))
    config = OmegaConf.create({"input_cfg": str(tmp_path / "list.yaml")})
    assert read_sources(config) == [Source(f"{tmp_path}/a.json", None, None)]
    (tmp_path / "score.json").write_bytes(form('{"wer":\n 1}'))
    assert read_json(tmp_path / "score.json") == {"wer": 1}


def test_lines_of_nothing_but_a_mark_are_blank():
    assert [line.number for line in parse_lines(io.BytesIO(MARK + b"\r\n" + MARK + b"{}\n"))] == [2]


@pytest.mark.parametrize("form", WINDOWS.values(), ids=WINDOWS)
def test_alignments_and_texts(tmp_path, form):
    (tmp_path / "a.ctm").write_bytes(form("u 1 0.0 0.5 AA\nu 1 0.5 0.5 T\n"))
    assert [item.symbol for item in read_alignments(tmp_path / "a.ctm", {"u"}).phones["u"]] == ["AA", "T"]
    (tmp_path / "a.txt").write_bytes(form("one two\nthree\n"))
    assert read_texts(tmp_path / "a.txt") == ["one two", "three"]


@pytest.mark.parametrize("form", WINDOWS.values(), ids=WINDOWS)
def test_transcripts_of_recipes(tmp_path, form):
    chapter = tmp_path / "dev-clean" / "84" / "198"
    for i in range(2):
        write(chapter / f"84-198-000{i}.flac", noise(1.0))
    (chapter / "84-198.trans.txt").write_bytes(form("84-198-0000 ONE\n84-198-0001 TWO WORDS\n"))
    found = listed(LibriSpeechRecipe(tmp_path, ("dev-clean",)), tmp_path)
    assert [segment.line["text"] for segment in found.segments] == ["ONE", "TWO WORDS"] and not found.skipped

    for subset, suffix, text in (
        ("en000", "txt", "v-00001-00000000-00000100 first\nv-00002-00000100-00000200 second\n"),
        ("en001", "json", json.dumps([{"audio_id": "w", "text": {"w-1-0-100": "caption"}}])),
    ):
        audio, texts = tmp_path / "data" / subset / "audio", tmp_path / "data" / subset / "text"
        audio.mkdir(parents=True)
        texts.mkdir()
        (texts / f"0.{suffix}").write_bytes(form(text))
        with tarfile.open(audio / "0.tar.gz", "w:gz") as tar:
            for name in ("v-00001-00000000-00000100", "v-00002-00000100-00000200") if suffix == "txt" else ("w",):
                data = wav()
                member = tarfile.TarInfo(f"{name}.wav")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    found = listed(YodasRecipe(tmp_path), tmp_path)
    assert [segment.line["text"] for segment in found.segments] == ["first", "second", "caption"] and not found.skipped


def test_shards_of_a_manifest_and_of_cuts_lose_no_line(tmp_path):
    from lhotse import MonoCut, Recording

    path = write(tmp_path / "a.wav", noise(1.0))
    (tmp_path / "a.json").write_bytes(
        MARK + b'{"audio_filepath": "a.wav", "snr": NaN, "more": [{"x": -Infinity}], "n": 1.5}\r\n'
    )
    make(ManifestRecipe([tmp_path / "a.json"]), tmp_path / "shards")
    (line,) = lines(tmp_path / "shards").values()
    assert line["snr"] is None and line["more"] == [{"x": None}] and line["n"] == 1.5
    assert b"NaN" not in (tmp_path / "shards" / "tarred_audio_manifest.json").read_bytes()

    cut = MonoCut("c", 0.0, 1.0, 0, recording=Recording.from_file(path), custom={"snr": math.nan})
    (tmp_path / "cuts.jsonl").write_bytes(MARK + json.dumps(cut.to_dict()).encode() + b"\r\n")
    make(CutsRecipe(tmp_path / "cuts.jsonl"), tmp_path / "of_cuts")
    (line,) = lines(tmp_path / "of_cuts").values()
    assert line["snr"] is None


def test_extracted_lines_are_json(tmp_path):
    with PartStore(tmp_path / "parts", {}, {}) as store:
        with store.writing(0, [{"audio_filepath": "é", "snr": math.inf}]):
            pass
        assert store.list_path(0).read_text(encoding="utf-8") == '{"audio_filepath": "é", "snr": null}\n'
    assert to_line({"a": 1.0}) == '{"a": 1.0}\n'


def test_what_nemo_reads_itself_must_have_no_mark(tmp_path):
    (tmp_path / "a.json").write_bytes(MARK + b"{}\n")
    with pytest.raises(ValueError, match=r"a\.json begins with a byte order mark.*sed -i"):
        refuse_mark(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"{}\n")
    refuse_mark(tmp_path / "a.json")
