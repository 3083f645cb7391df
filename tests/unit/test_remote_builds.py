"""Shards built from a store and in a store, and checked there, against an S3 server and an HTTP server on this machine."""

import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import fsspec
import pytest
from click.testing import CliRunner

from nemo_birq.data import remote_files
from nemo_birq.data.retries import RemoteError
from nemo_birq.data.shards.build import plan_build
from nemo_birq.data.shards.build_command import make_shards
from nemo_birq.data.shards.parts import Part, build_part
from nemo_birq.data.shards.plan import BuildOptions
from nemo_birq.data.shards.recipes.folder import FolderRecipe
from nemo_birq.data.shards.recipes.manifest import ManifestRecipe
from nemo_birq.data.shards.recipes.remote_folder import RemoteFolderRecipe
from nemo_birq.data.shards.recipes.yodas import YodasRecipe
from nemo_birq.data.shards.recordings import LIMIT
from nemo_birq.data.shards.segments import BuildError
from nemo_birq.data.shards.verify import verify
from nemo_birq.data.shards.verify_command import verify_shards
from nemo_birq.data.tables import cache_folder
from nemo_birq.utils.progress import ProgressBars
from tests.helpers.paths import ROOT
from tests.helpers.shards import make, noise, write, write_lines
from tests.helpers.stores import Store, http_store, s3_for_tests

pytestmark = pytest.mark.unit
OPTIONS = {"num_shards": 3, "max_duration": 3.0}
QUIET = ProgressBars(disable=True)


class Bucket(NamedTuple):
    """An S3 server with the recordings, and the URL of an empty folder on it."""

    store: Store
    recordings: str
    out: str

    def holds(self) -> dict[str, bytes]:
        """Returns the files of the folder."""
        system, path = fsspec.url_to_fs(self.out)
        system.invalidate_cache()
        return {name.removeprefix(f"{path}/"): system.cat_file(name) for name in system.find(path)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    """An empty cache folder, like that of a new machine."""
    monkeypatch.setenv("NEMO_BIRQ_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Folder with clips, a long recording that is cut, a broken file, and a file that is not audio."""
    root = tmp_path_factory.mktemp("root") / "clips"
    for i in range(6):
        write(root / f"speaker{i % 2}" / f"{i}.flac", noise(1 + 0.3 * i))
    write(root / "long.wav", noise(10, rate=8000))
    (root / "broken.flac").write_bytes(b"no audio")
    (root / "notes.txt").write_text("x")
    (root / "._0.flac").write_bytes(b"attributes")
    return root


@pytest.fixture(scope="module")
def s3(folder) -> Iterator[tuple[Store, str]]:
    with s3_for_tests() as store:
        fsspec.filesystem("s3").put(str(folder), "bucket/clips", recursive=True)
        fsspec.filesystem("s3").pipe_file("bucket/clips2/other.flac", b"of another folder")
        yield store


@pytest.fixture
def bucket(s3, tmp_path) -> Iterator[Bucket]:
    yield Bucket(s3, "s3://bucket/clips", f"s3://bucket/{tmp_path.name}")
    s3.failing_share, s3.refusing, s3.refuse_after = 0.0, (), None


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> dict[str, bytes]:
    """Files of a build on this machine."""
    out = tmp_path_factory.mktemp("whole")
    make(FolderRecipe(folder), out, max_skipped_share=0.5, **OPTIONS)
    return local(out)


def local(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def assert_same(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Checks that all bytes are equal, except the digest of the input's path in the plan."""
    assert found.keys() == expected.keys()
    plans = [json.loads(files["build_plan.json"]) for files in (found, expected)]
    for plan in plans:
        plan["source"]["input"] = [name.partition(" (path ")[0] for name in plan["source"]["input"]]
    assert plans[0] == plans[1]
    assert all(found[name] == expected[name] for name in found if name != "build_plan.json")


def test_from_a_bucket_to_a_bucket_while_requests_fail(bucket, whole):
    bucket.store.failing_share = 0.05
    card = make(RemoteFolderRecipe(bucket.recordings), bucket.out, max_skipped_share=0.5, **OPTIONS)
    assert_same(bucket.holds(), whole)
    assert make(RemoteFolderRecipe(bucket.recordings), bucket.out, max_skipped_share=0.5, **OPTIONS) == card
    assert verify(bucket.out, decode=True, workers=1, progress=QUIET) == ([], 8)
    copies = (cache_folder() / "recordings" / "in_use", cache_folder() / "reading")
    assert not list(cache_folder().rglob("*.tar")) and not any(list(folder.iterdir()) for folder in copies)


def test_from_a_bucket_to_this_machine_reads_each_recording_once(bucket, whole, tmp_path):
    before = bucket.store.gets
    make(RemoteFolderRecipe(bucket.recordings), tmp_path / "out", max_skipped_share=0.5, **OPTIONS)
    assert_same(local(tmp_path / "out"), whole)
    assert bucket.store.gets - before == 8  # files; their 8 pieces, once more, find them in the cache


def test_a_small_cache_of_recordings_is_no_loss(bucket, whole, tmp_path, monkeypatch):
    monkeypatch.setenv(LIMIT, "0")
    make(RemoteFolderRecipe(bucket.recordings), tmp_path / "out", max_skipped_share=0.5, **OPTIONS)
    assert_same(local(tmp_path / "out"), whole)
    assert not (cache_folder() / "recordings" / "kept").exists()
    monkeypatch.setenv(LIMIT, "much")
    with pytest.raises(ValueError, match=rf"{LIMIT}=much must be a number of gigabytes"):
        make(RemoteFolderRecipe(bucket.recordings), tmp_path / "more", **OPTIONS)


def test_parts_of_machines_that_share_a_bucket_alone(bucket, whole, tmp_path, monkeypatch):
    """Each part has a separate cache folder, like another machine; one is killed before it has sent its record."""
    recipe, options = RemoteFolderRecipe(bucket.recordings), BuildOptions(**OPTIONS)
    monkeypatch.setenv("NEMO_BIRQ_CACHE", str(tmp_path / "planner"))
    plan_build(recipe, bucket.out, options, 1, QUIET)
    for text in ("3/3", "1/3", "3/3"):
        monkeypatch.setenv("NEMO_BIRQ_CACHE", str(tmp_path / f"machine{text[0]}"))
        build_part(recipe, bucket.out, options, 1, Part.parse(text), QUIET)
    held = bucket.holds()
    assert {name for name in held if name.endswith(".tar")} == {"audio_0.tar", "audio_2.tar"}
    fsspec.filesystem("s3").rm(f"{bucket.out}/.build/records/000000.json")
    fsspec.filesystem("s3").pipe_file(f"{bucket.out}/audio_2.tar", b"cut off")
    monkeypatch.setenv("NEMO_BIRQ_CACHE", str(tmp_path / "last"))
    make(recipe, bucket.out, max_skipped_share=0.5, **OPTIONS)
    assert_same(bucket.holds(), whole)
    assert build_part(recipe, bucket.out, options, 1, Part.parse("2/3"), QUIET).is_complete


def test_a_killed_build_goes_on(bucket, whole, tmp_path):
    """The command runs with two processes and is killed without a chance to clean up."""
    command = [sys.executable, str(ROOT / "scripts" / "make_shards.py"), "folder", bucket.recordings, "--out", bucket.out]
    command += ["--num-shards", "3", "--max-duration", "3.0", "--workers", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    system = fsspec.filesystem("s3")
    while not system.exists(f"{bucket.out}/audio_0.tar") and process.poll() is None:
        time.sleep(0.02)
        system.invalidate_cache()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    result = CliRunner().invoke(make_shards, [*command[2:], "--max-skipped-share", "0.5"])
    assert result.exit_code == 0 and bucket.out in result.output, result.output
    assert_same(bucket.holds(), whole)


def test_a_manifest_of_urls_on_a_web_server(folder, tmp_path):
    names = [f"speaker{i % 2}/{i}.flac" for i in range(6)]
    write_lines(folder.parent / "local.json", *({"audio_filepath": f"clips/{name}", "text": name} for name in names))
    expected = make(ManifestRecipe([folder.parent / "local.json"]), tmp_path / "expected", num_shards=2)
    with http_store(folder.parent) as (_, url):
        found = make(ManifestRecipe([f"{url}/local.json"]), tmp_path / "found", num_shards=2)
        assert found == expected
        assert_same(local(tmp_path / "found"), local(tmp_path / "expected"))
        lines = [{"audio_filepath": f"{url}/clips/{name}", "text": name} for name in [*names, "lost.flac"]]
        write_lines(tmp_path / "urls.json", *lines, {"audio_filepath": "../up.flac"})
        card = make(ManifestRecipe([tmp_path / "urls.json"]), tmp_path / "urls", max_skipped_share=0.5, num_shards=1)
        assert card["utterances"] == 6 and card["hours"] == expected["hours"]
        assert [entry["kind"] for entry in card["skipped"]] == ["missing", "outside"]
        with pytest.raises(ValueError, match=r"cannot be written, because web servers .*: give an object store"):
            make(ManifestRecipe([f"{url}/local.json"]), f"{url}/out")
        with pytest.raises(ValueError, match=r"cannot be listed, because web servers .*: name the files"):
            make(RemoteFolderRecipe(f"{url}/clips"), tmp_path / "listed")


def test_single_files_in_a_bucket(bucket, folder, tmp_path):
    options = {"single_files": True, "max_skipped_share": 0.5, "max_duration": 3.0}
    make(FolderRecipe(folder), tmp_path / "out", **options)
    make(FolderRecipe(folder), bucket.out, **options)
    assert_same(bucket.holds(), local(tmp_path / "out"))
    fsspec.filesystem("s3").pipe_file(f"{bucket.out}/audio/long-00000000-00002500.flac", b"replaced")
    result = CliRunner().invoke(verify_shards, [bucket.out, "--workers", "1"])
    assert result.exit_code == 1 and "its SHA-256 differs" in result.output and "8 members" in result.output


def test_a_damaged_bucket_is_found(bucket, whole):
    system, path = fsspec.url_to_fs(bucket.out)
    for name, content in whole.items():
        system.pipe_file(f"{path}/{name}", content)
    assert verify(bucket.out, decode=False, workers=1, progress=QUIET) == ([], 8)
    damaged = bytearray(whole["audio_1.tar"])
    damaged[5000] ^= 1
    system.pipe_file(f"{path}/audio_1.tar", bytes(damaged))
    system.rm(f"{path}/audio_0.tar")
    problems, _ = verify(bucket.out, decode=False, workers=1, progress=QUIET)
    assert {problem.shard for problem in problems} >= {"audio_0.tar", "audio_1.tar"}


def test_nothing_of_others_is_overwritten(bucket, folder):
    system, path = fsspec.url_to_fs(bucket.out)
    system.pipe_file(f"{path}/audio_0.tar", b"of somebody")
    with pytest.raises(BuildError, match=r"holds shards, but no build_plan\.json of this command: name another folder"):
        make(FolderRecipe(folder), bucket.out)
    system.rm(f"{path}/audio_0.tar")
    recipe = RemoteFolderRecipe(bucket.recordings)
    remote_files.write_new(f"{bucket.out}/.build/begun.json", b'{"source": {}}')
    with pytest.raises(BuildError, match=r"another command, .* has begun to build in s3://bucket/\S+: name another folder"):
        make(recipe, bucket.out)
    assert bucket.holds() == {".build/begun.json": b'{"source": {}}'}


def test_archives_are_unpacked_on_one_machine(bucket, tmp_path, monkeypatch):
    audio = tmp_path / "yodas" / "data" / "en000" / "audio"
    clip = write(tmp_path / "abc-00000-00000000-00000100.wav", noise(1.0))
    audio.mkdir(parents=True)
    with tarfile.open(audio / "00000000.tar.gz", "w:gz") as tar:
        tar.add(clip, f"./{clip.name}")
    (audio.parent / "text").mkdir()
    (audio.parent / "text" / "00000000.txt").write_text(f"{clip.stem} Hello.\n")
    recipe, options, part = YodasRecipe(tmp_path / "yodas"), BuildOptions(), Part.parse("1/1")
    plan_build(recipe, bucket.out, options, 1, QUIET)
    with monkeypatch.context() as other:
        other.setenv("NEMO_BIRQ_CACHE", str(tmp_path / "other"))
        with pytest.raises(BuildError, match=r"unpacked by --plan on another machine, .*: build all parts there"):
            build_part(recipe, bucket.out, options, 1, part, QUIET)
    assert build_part(recipe, bucket.out, options, 1, part, QUIET).shards == 1
    assert make(recipe, bucket.out)["utterances"] == 1


def test_what_cannot_work_is_refused_before_any_work(bucket, folder, tmp_path, monkeypatch):
    recipe = FolderRecipe(folder)
    with pytest.raises(RemoteError, match=r"s3://no-bucket/a/\S+ cannot be written .*compare the names of bucket"):
        make(recipe, "s3://no-bucket/a")
    with pytest.raises(RemoteError, match=r"s3://no-bucket/clips cannot be read .*compare the names of bucket"):
        make(RemoteFolderRecipe("s3://no-bucket/clips"), tmp_path)
    with pytest.raises(BuildError, match=r"s3://bucket/nothing holds no files: check the name of the folder"):
        make(RemoteFolderRecipe("s3://bucket/nothing"), tmp_path)
    with pytest.raises(ValueError, match=r"\*\*\* is a URL with an account or a query"):
        make(recipe, "s3://bucket/a?token=hidden")
    plan_build(recipe, bucket.out, BuildOptions(**OPTIONS), 1, QUIET)
    bucket.store.refusing = ("PUT", "POST")  # the key may read and not write
    with pytest.raises(RemoteError, match=r"cannot be written .*the store refuses access: .* may write the object"):
        build_part(recipe, bucket.out, BuildOptions(**OPTIONS), 1, Part.parse("1/1"), QUIET)
    assert not [name for name in bucket.holds() if name.endswith(".tar")]
    bucket.store.refusing = ()
    result = CliRunner().invoke(make_shards, ["librispeech", "s3://bucket/LibriSpeech", "--out", str(tmp_path)])
    assert result.exit_code == 2 and "is a URL, but this command needs a local path" in result.output


def test_a_disk_that_takes_no_recording_is_named(bucket, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # no recording is so small
    try:
        with pytest.raises(BuildError, match=r"no space left while building in \S+ \(File too large\): free some, and run"):
            make(RemoteFolderRecipe(bucket.recordings), tmp_path / "out", **OPTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_credentials_that_expire_end_the_build_and_lose_nothing(bucket, whole):
    recipe, options = RemoteFolderRecipe(bucket.recordings), BuildOptions(**OPTIONS)
    plan_build(recipe, bucket.out, options, 1, QUIET)
    build_part(recipe, bucket.out, options, 1, Part.parse("1/3"), QUIET)
    bucket.store.refuse_after = bucket.store.requests + 12
    with pytest.raises(RemoteError, match=r"the store refuses access: check that its tools .*have not expired"):
        make(recipe, bucket.out, max_skipped_share=0.5, **OPTIONS)
    bucket.store.refuse_after = None
    make(recipe, bucket.out, max_skipped_share=0.5, **OPTIONS)
    assert_same(bucket.holds(), whole)
