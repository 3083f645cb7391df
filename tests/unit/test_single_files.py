"""Single files instead of shards: a validation set that needs no unpacking."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from nemo_birq.data.index import open_index
from nemo_birq.data.shards.build_command import make_shards
from nemo_birq.data.shards.plan import PLAN, SCRATCH
from nemo_birq.data.shards.recipes.folder import FolderRecipe
from nemo_birq.data.shards.recipes.manifest import ManifestRecipe
from nemo_birq.data.shards.segments import BuildError
from nemo_birq.data.shards.verify_command import verify_shards
from nemo_birq.data.sources import Source
from tests.helpers.shards import lines, make, noise, write, write_lines

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Six clips with texts."""
    root = tmp_path_factory.mktemp("source")
    entries = []
    for i in range(6):
        write(root / f"speaker{i % 2}" / f"{i}.wav", noise(0.5 + 0.1 * i))
        entries.append({"audio_filepath": f"speaker{i % 2}/{i}.wav", "duration": 0.5 + 0.1 * i, "text": f"text {i}"})
    return write_lines(root / "dev.json", *entries)


def content(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def build(source: Path, out: Path, **options) -> dict:
    return make(ManifestRecipe([source]), out, single_files=True, shard_hours=0.0003, **options)  # some parts


@pytest.fixture(scope="module")
def out(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out")
    build(source, out)
    return out


def test_files_are_the_members_of_shards(source, out, tmp_path):
    card = make(ManifestRecipe([source]), tmp_path)
    members = lines(tmp_path)
    found = [json.loads(line) for line in (out / "manifest.json").read_text().splitlines()]
    assert [line["audio_filepath"] for line in found] == sorted(f"audio/{name}" for name in members)
    for line in found:
        name = line["audio_filepath"].removeprefix("audio/")
        assert line | {"audio_filepath": name, "shard_id": 0} == members[name]
    with tarfile.open(tmp_path / "audio_0.tar") as tar:
        assert {f"audio/{m.name}": tar.extractfile(m).read() for m in tar} == {
            path.relative_to(out).as_posix(): path.read_bytes() for path in (out / "audio").iterdir()
        }
    own = json.loads((out / "dataset_card.json").read_text())
    assert own["shards"] == {} and own["bytes"] == sum(path.stat().st_size for path in (out / "audio").iterdir())
    for key in ("utterances", "hours", "skipped", "duration_histogram"):
        assert own[key] == card[key]
    assert own["sha256"].keys() == {"manifest.json", *(f"audio/{name}" for name in members)}


def test_training_reads_them(out):
    index = open_index(Source(str(out / "manifest.json"), None, None))
    assert len(index) == 6 and index.problems == [] and index.durations.sum() == pytest.approx(4.5)
    signal, rate = soundfile.read(io.BytesIO(Path(index.place(0).file).read_bytes()))
    assert rate == 16000 and np.abs(signal).max() > 0


def test_an_interrupted_build_gives_the_same_bytes(source, out, tmp_path, monkeypatch):
    monkeypatch.setattr("nemo_birq.data.shards.build.write_manifest", lambda *_: 1 / 0)  # ends before the manifest
    with pytest.raises(ZeroDivisionError):
        build(source, tmp_path / "torn")
    monkeypatch.undo()
    torn = tmp_path / "torn"
    records = sorted((torn / SCRATCH / "records").glob("*.json"))
    assert len(records) > 2 and not (torn / "manifest.json").exists()
    records[0].unlink()  # a part that was not finished,
    kept, changed = sorted(json.loads(records[2].read_text())["files"])[0], json.loads(records[1].read_text())["files"]
    (torn / sorted(changed)[0]).write_bytes(b"torn")  # and one that was damaged
    before = (torn / kept).stat().st_mtime_ns
    build(source, torn)
    assert content(torn) == content(out) and (torn / kept).stat().st_mtime_ns == before


def test_what_does_not_go_together_is_refused(source, tmp_path, out):
    for options, message in (({"num_shards": 2}, r"num_shards is 2"), ({"buckets": 2}, r"buckets is 2")):
        with pytest.raises(BuildError, match=message):
            build(source, tmp_path / "a", **options)
    with pytest.raises(BuildError, match=r"single_files was True and is False"):
        make(ManifestRecipe([source]), out, shard_hours=0.0003)
    (tmp_path / "b" / "audio").mkdir(parents=True)
    with pytest.raises(BuildError, match=r"holds audio or manifest\.json, but no build_plan"):
        build(source, tmp_path / "b")


def test_a_plan_of_an_earlier_version_goes_on(tmp_path):
    write(tmp_path / "in" / "a.wav", noise(1.0))
    make(FolderRecipe(tmp_path / "in"), tmp_path / "out")
    plan = json.loads((tmp_path / "out" / PLAN).read_text())
    del plan["options"]["single_files"], plan["not_taken"]
    (tmp_path / "out" / PLAN).write_text(json.dumps(plan))
    assert make(FolderRecipe(tmp_path / "in"), tmp_path / "out")["utterances"] == 1


def run(command, *arguments: object):
    return CliRunner(env={"COLUMNS": "200"}).invoke(command, [*map(str, arguments), "--workers", "1"])


def test_the_commands(source, tmp_path):
    out = tmp_path / "out"
    made = run(make_shards, "manifest", source, "--out", out, "--files", "--codec", "wav")
    assert made.exit_code == 0 and "6 of wav" in made.output and str(out / "manifest.json") in made.output
    assert "6 members, no problems" in run(verify_shards, out).output
    (out / "audio" / "speaker0_0.wav").unlink()
    (out / "audio" / "speaker1_1.wav").write_bytes((out / "audio" / "speaker1_3.wav").read_bytes())
    (out / "audio" / "speaker0_2.wav").write_bytes(b"RIFF")
    (out / "audio" / "another.wav").write_bytes(b"")
    (out / "manifest.json").write_text((out / "manifest.json").read_text() + "no line\n")
    checked = run(verify_shards, out)
    assert checked.exit_code == 1
    for said in ("it does not exist", "SHA-256 differs", "cannot be decoded", "no line for it", "line 7"):
        assert said in checked.output, said
