"""Builds in parts, like job arrays on many machines, give the result of one process, even after failures."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from nemo_birq.data.shards import names as names_module
from nemo_birq.data.shards import pieces as pieces_module
from nemo_birq.data.shards import plan as plan_module
from nemo_birq.data.shards.build import CARD, plan_build
from nemo_birq.data.shards.build_command import make_shards
from nemo_birq.data.shards.parts import Part, build_part
from nemo_birq.data.shards.plan import PLAN, SCRATCH, BuildOptions
from nemo_birq.data.shards.recipes import manifest as recipe_module
from nemo_birq.data.shards.recipes.folder import FolderRecipe
from nemo_birq.data.shards.recipes.manifest import ManifestRecipe
from nemo_birq.data.shards.segments import BuildError
from nemo_birq.utils.files import file_sha256
from nemo_birq.utils.progress import ProgressBars
from tests.helpers.paths import ROOT
from tests.helpers.shards import make, noise, write, write_lines

pytestmark = pytest.mark.unit
OPTIONS = {"num_shards": 5, "max_duration": 4.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    for i in range(12):
        write(root / f"{i}.flac", noise(1 + 0.5 * i))
    (root / "broken.flac").write_bytes(b"no audio")
    return root


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> dict[str, str]:
    """Checksums of the files of a build in one process."""
    out = tmp_path_factory.mktemp("whole")
    make(FolderRecipe(folder), out, max_skipped_share=0.5, **OPTIONS)
    return checksums(out)


def checksums(out: Path) -> dict[str, str]:
    files = (path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(out)): file_sha256(path) for path in files}


def plan(folder: Path, out: Path, **changes) -> None:
    plan_build(FolderRecipe(folder), out, BuildOptions(**OPTIONS | changes), 1, ProgressBars(disable=True))


def part(folder: Path, out: Path, text: str, **changes):
    options = BuildOptions(**OPTIONS | changes)
    return build_part(FolderRecipe(folder), out, options, 1, Part.parse(text), ProgressBars(disable=True))


def test_parts_in_any_order_repeated_and_lost_give_the_bytes_of_one_process(folder, whole, tmp_path):
    plan(folder, tmp_path)
    assert not list(tmp_path.glob("*.tar"))
    for text in ("3/3", "1/3", "3/3"):  # the second one is lost, and the plain command makes up for it
        part(folder, tmp_path, text)
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["audio_0.tar", "audio_2.tar", "audio_3.tar"]
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}
    assert part(folder, tmp_path, "1/2").shards == 3  # another number of parts: 0, 2 and 4, of which 4 is new
    assert all(path.stat().st_mtime_ns == time for path, time in made.items())
    make(FolderRecipe(folder), tmp_path, workers=2, max_skipped_share=0.5, **OPTIONS)
    assert checksums(tmp_path) == whole
    assert part(folder, tmp_path, "2/3").is_complete and checksums(tmp_path) == whole


def test_the_plan_does_not_depend_on_how_much_of_it_is_in_memory(tmp_path, monkeypatch):
    """This concerns batches of the input, tables that are read together, sorted groups and compared names."""
    names = [f"{i}{separator}x.wav" for i in range(3) for separator in "/_"]  # members of two files are called the same
    for name in names:
        write(tmp_path / "in" / name, noise(1.5))
    lines = [
        {"audio_filepath": names[i % 6], "offset": 0.01 * (i // 6), "duration": 0.2 + 0.003 * i, "text": "é"}
        for i in range(60)
    ]
    manifest = write_lines(tmp_path / "in" / "train.json", *lines, *lines[:7], {"audio_filepath": "no.wav", "duration": 1})
    outs = [tmp_path / "whole", tmp_path / "in_parts"]
    for out in outs:
        options = BuildOptions(num_shards=5, buckets=2, min_duration=0.25)
        plan_build(ManifestRecipe([manifest]), out, options, 1, ProgressBars(disable=True))
        monkeypatch.setattr(recipe_module, "IN_A_BATCH", 4)
        monkeypatch.setattr(pieces_module, "_TABLES_AT_ONCE", 2)
        monkeypatch.setattr(pieces_module, "_IN_A_GROUP", 9)
        monkeypatch.setattr(names_module, "_AT_ONCE", 3)
    assert checksums(outs[0]) == checksums(outs[1])
    members = [
        json.loads(line)[0] for path in (outs[0] / SCRATCH).rglob("*.jsonl") for line in path.read_text().splitlines()
    ]
    assert len(set(members)) == len(members) == 43
    assert sum(len(member) > len("0_x-00000000-00000200.wav") for member in members) > 20  # with a hash
    skipped = json.loads((outs[0] / PLAN).read_text())["skipped"]
    assert Counter(kind for _, kind, _ in skipped) == {"duplicate": 7, "missing": 1}


def test_a_killed_part_is_repeated(folder, whole, tmp_path):
    """The command is killed without a chance to clean up."""
    command = [sys.executable, str(ROOT / "scripts" / "make_shards.py"), "folder", str(folder), "--out", str(tmp_path)]
    command += ["--num-shards", "5", "--max-duration", "4.0", "--workers", "1"]
    subprocess.run([*command, "--plan"], cwd=ROOT, check=True, capture_output=True)
    process = subprocess.Popen([*command, "--part", "1/1"], cwd=ROOT, stderr=subprocess.DEVNULL)
    records = tmp_path / SCRATCH / "records"
    while not list(records.glob("*.json")) and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for text in ("2/2", "1/2"):
        result = CliRunner().invoke(make_shards, [*command[2:], "--part", text])
        assert result.exit_code == 0 and f"part {text}: " in result.output, result.output
    assert len(list(tmp_path.glob("*.tar"))) == 5 and not (tmp_path / CARD).exists()
    result = CliRunner().invoke(make_shards, [*command[2:], "--max-skipped-share", "0.5"])
    assert result.exit_code == 0, result.output
    assert checksums(tmp_path) == whole


def test_a_part_without_a_plan_or_of_another_build_is_refused(folder, tmp_path, monkeypatch):
    with pytest.raises(BuildError, match=rf"holds no {PLAN}: run the same command once with --plan"):
        part(folder, tmp_path, "1/2")
    plan(folder, tmp_path)
    with pytest.raises(BuildError, match=r"codec was 'flac' and is 'wav'"):
        part(folder, tmp_path, "1/2", codec="wav")
    monkeypatch.setattr(plan_module.soxr, "__version__", "0.0.1")
    with pytest.raises(BuildError, match=r"by other versions: soxr was .* and is 0\.0\.1\..*resume it with those versions"):
        part(folder, tmp_path, "1/2")
    assert not list(tmp_path.glob("*.tar"))


def test_a_shard_that_another_process_builds_is_left_to_it(folder, tmp_path):
    plan(folder, tmp_path)
    lock = tmp_path / SCRATCH / "records" / "000001.lock"
    program = f"from filelock import FileLock as Lock; lock = Lock({str(lock)!r}); lock.acquire(); print(); input()"
    holder = subprocess.Popen(
        [sys.executable, "-uc", program],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    holder.stdout.readline()
    with pytest.raises(BuildError, match=r"another process is building shard 1 of .*: wait until it has ended"):
        part(folder, tmp_path, "1/1")
    holder.communicate(b"\n")
    assert part(folder, tmp_path, "1/1").shards == 5


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/3/5"])
def test_what_is_no_part_is_refused(text, folder, tmp_path):
    result = CliRunner().invoke(make_shards, ["folder", str(folder), "--out", str(tmp_path), "--part", text])
    assert result.exit_code == 1 and f"{text!r} is not a part: give its number" in result.output
