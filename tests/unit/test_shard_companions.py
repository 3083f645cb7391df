"""Files of an input that are not audio: companions are ignored, all others are counted and reported."""

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from nemo_birq.data.shards.build_command import make_shards
from nemo_birq.data.shards.recipes.ami import ANNOTATIONS, AmiRecipe
from nemo_birq.data.shards.recipes.folder import FolderRecipe
from nemo_birq.data.shards.recipes.inputs import is_companion, walk
from nemo_birq.data.shards.recipes.librispeech import LibriSpeechRecipe
from nemo_birq.data.shards.recipes.yodas import YodasRecipe
from tests.helpers.shards import lines, listed, make, noise, wav, write

pytestmark = pytest.mark.unit

APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(100)


def accompany(root: Path) -> Path:
    """Adds the companions of macOS, of Windows and of a file server beside every file and folder."""
    for path in [root, *root.rglob("*")]:
        path.with_name(f"._{path.name}").write_bytes(APPLE_DOUBLE)
        if path.is_dir():
            for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
                (path / name).write_bytes(b"\x00\x00\x00\x01Bud1")
    for name in ("__MACOSX", "@eaDir"):
        (root / name).mkdir()
        (root / name / f"._{root.name}").write_bytes(APPLE_DOUBLE)
        (root / name / "a.wav").write_bytes(APPLE_DOUBLE)
    return root


def test_names_of_companions():
    assert all(map(is_companion, ("._a.wav", "._", ".DS_Store", "__MACOSX", "thumbs.db", "Desktop.ini", "@eaDir")))
    assert not any(map(is_companion, ("a.wav", "_a.wav", ".a.wav", "._".join("ab"), "MACOSX")))


def test_a_folder_of_macos(tmp_path):
    write(tmp_path / "in" / "a" / "x.wav", noise(1.0))
    write(tmp_path / "in" / "y.flac", noise(1.0))
    shutil.copytree(tmp_path / "in", tmp_path / "plain")
    card = make(FolderRecipe(accompany(tmp_path / "in")), tmp_path / "out")
    assert card["utterances"] == 2 and card["skipped"] == [] and card["not_taken"] == {}
    assert lines(tmp_path / "out").keys() == {"a_x.flac", "y.flac"}
    found = [{k: v for k, v in FolderRecipe(tmp_path / name).describe().items() if k != "input"} for name in ("in", "plain")]
    assert found[0] == found[1]  # a build resumes after the folder was opened in a file manager


def test_librispeech_with_companions(tmp_path):
    chapter = tmp_path / "in" / "dev-clean" / "84" / "198"
    write(chapter / "84-198-0000.flac", noise(1.0))
    (chapter / "84-198.trans.txt").write_text("84-198-0000 GOOD\n")
    found = listed(LibriSpeechRecipe(accompany(tmp_path / "in"), ("dev-clean",)), tmp_path)
    assert [segment.name for segment in found.segments] == ["84-198-0000"] and found.skipped == []


@pytest.mark.parametrize("packed", [False, True])
def test_ami_with_companions(tmp_path, packed):
    root = tmp_path / "ami"
    annotations = root / ANNOTATIONS
    texts = {
        "corpusResources/meetings.xml": '<r><meeting observation="ES2002a"><speaker nxt_agent="A" global_name="FEE005" '
        'channel="0"/></meeting></r>',
        "segments/ES2002a.A.segments.xml": '<r><segment transcriber_start="0.9" transcriber_end="1.6"/></r>',
        "words/ES2002a.A.words.xml": '<r><w starttime="1.0" endtime="1.5">okay</w></r>',
    }
    for name, text in texts.items():
        (annotations / name).parent.mkdir(parents=True, exist_ok=True)
        (annotations / name).write_text(text)
    write(root / "wav_db" / "ES2002a" / "audio" / "ES2002a.Headset-0.wav", noise(3.0))
    accompany(root)
    if packed:
        with zipfile.ZipFile(root / f"{ANNOTATIONS}.zip", "w") as archive:
            for path in [*annotations.rglob("*")]:
                archive.write(path, path.relative_to(annotations))
        shutil.rmtree(annotations)
    found = listed(AmiRecipe(root, split="train"), tmp_path)
    assert [segment.line["text"] for segment in found.segments] == ["OKAY"] and found.skipped == []


def test_archives_of_yodas_with_companions(tmp_path):
    subset = tmp_path / "in" / "data" / "en000"
    source = write(tmp_path / "v-00000-00000000-00000100.wav", noise(1.0))
    (subset / "audio").mkdir(parents=True)
    (subset / "text").mkdir()
    (subset / "text" / "00000000.txt").write_text("v-00000-00000000-00000100 hello\n")
    companion = tmp_path / "companion"
    companion.write_bytes(APPLE_DOUBLE)
    with tarfile.open(subset / "audio" / "00000000.tar.gz", "w:gz") as tar:
        for name, path in (
            (f"./._{source.name}", companion),
            (f"__MACOSX/{source.name}", companion),
            (f"./{source.name}", source),
        ):
            tar.add(path, name)
    accompany(tmp_path / "in" / "data")
    found = listed(YodasRecipe(tmp_path / "in"), tmp_path)
    assert [segment.line["text"] for segment in found.segments] == ["hello"] and found.skipped == []


def run(*arguments: object):
    return CliRunner(env={"COLUMNS": "200"}).invoke(make_shards, [*map(str, arguments), "--workers", "1"])


def test_what_a_folder_holds_besides_audio_is_counted_and_said(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").write_bytes(wav())
    for name in ("b.m4a", "c.M4A", "d.webm", "readme.txt", "LICENSE"):
        (tmp_path / "in" / name).write_text("no audio")
    result = run("folder", tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 0
    card = json.loads((tmp_path / "out" / "dataset_card.json").read_text())
    assert card["not_taken"] == {".m4a": 2, ".txt": 1, ".webm": 1, "no suffix": 1} and card["skipped"] == []
    assert "5 files that are no known audio: 2 .m4a, 1 .txt, 1 .webm, 1 no suffix" in result.output
    again = run("folder", tmp_path / "in", "--out", tmp_path / "out")
    assert again.exit_code == 0 and "2 .m4a" in again.output
    plan = json.loads((tmp_path / "out" / "build_plan.json").read_text())
    del plan["not_taken"]  # as earlier versions wrote it
    (tmp_path / "out" / "build_plan.json").write_text(json.dumps(plan))
    assert run("folder", tmp_path / "in", "--out", tmp_path / "out").exit_code == 0


def test_an_output_inside_of_the_input_is_no_part_of_it(tmp_path):
    """The folder is read while the build writes its tables; names come in the order in which paths are sorted."""
    names = ["B.wav", "a/x.wav", "a/b/z.wav", "a-b/y.wav", "a.wav", "a b.wav", "a/b.wav", "link/x.wav"]
    for name in names[:-1]:
        write(tmp_path / name, noise(1.0))
    (tmp_path / "link").symlink_to("a-b")
    found = [Path(path) for path in walk(tmp_path)]
    assert found == sorted(found) and len(found) == len(names) - 1  # a folder that is behind two names comes once
    card = make(FolderRecipe(tmp_path), tmp_path / "out", num_shards=1)
    assert card["utterances"] == len(found) and set(card["not_taken"]) <= {".lock"}


def test_the_terminal_names_the_files_that_make_the_exit_code_1(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.wav").write_bytes(wav())
    for i in range(6):
        (tmp_path / "in" / f"broken{i}.wav").write_bytes(b"RIFF")
    (tmp_path / "in" / "void.wav").write_bytes(wav(0.0))
    (tmp_path / "in" / "film.mp4").write_bytes(b"no audio")
    result = run("folder", tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 1
    for said in ("broken0.wav: ", "void.wav: it holds no audio", "87.5% of the utterances were left out", "1 .mp4"):
        assert said in result.output
    message = result.output[result.output.index("87.5% of") :]
    assert "broken0.wav: " in message and "void.wav: " in message  # one of each kind
