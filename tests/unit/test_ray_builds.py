"""Builds on a local Ray cluster give the result of one process, even if tasks are killed."""

from pathlib import Path

import fsspec
import pytest
from click.testing import CliRunner

from nemo_birq.data.shards.build_command import make_shards
from nemo_birq.data.shards.recipes.folder import FolderRecipe
from nemo_birq.data.shards.recipes.remote_folder import RemoteFolderRecipe
from nemo_birq.data.shards.segments import BuildError
from nemo_birq.data.shards.verify_command import verify_shards
from nemo_birq.utils.progress import ProgressBars
from tests.helpers.ray_jobs import killed_always, killed_once, refused
from tests.helpers.shards import make, noise, write
from tests.helpers.stores import s3_for_tests

pytestmark = pytest.mark.unit
ray = pytest.importorskip("ray", reason="pip install 'nemo_birq[ray]'")

from nemo_birq.data.shards import ray_cluster  # noqa: E402

OPTIONS = {"num_shards": 4, "max_duration": 4.0}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster whose processes have a separate cache folder, like other machines, and find the tests' store."""
    with s3_for_tests(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEMO_BIRQ_CACHE", str(tmp_path_factory.mktemp("machines")))
        patch.setenv("RAY_worker_niceness", "0")  # 15 otherwise, which is little on a machine that has other work
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        ray.init(num_cpus=2, object_store_memory=100 << 20, **quiet)
        yield ray_cluster.RayCluster(ray_cluster.ANY)
        ray.shutdown()


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("root") / "clips"
    for i in range(6):
        write(root / f"{i}.flac", noise(1 + 0.5 * i))
    write(root / "long.wav", noise(9))
    (root / "broken.flac").write_bytes(b"no audio")
    return root


def content(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def test_the_bytes_are_those_of_one_process(cluster, clips, tmp_path):
    make(FolderRecipe(clips), tmp_path / "one", max_skipped_share=0.5, **OPTIONS)
    arguments = ["folder", str(clips), "--out", str(tmp_path / "ray"), "--max-skipped-share", "0.5"]
    arguments += ["--num-shards", "4", "--max-duration", "4.0"]
    result = CliRunner().invoke(make_shards, [*arguments, "--ray"])
    assert result.exit_code == 0, result.output
    assert content(tmp_path / "ray") == content(tmp_path / "one")
    result = CliRunner().invoke(verify_shards, [str(tmp_path / "ray"), "--ray"])
    assert result.exit_code == 0 and "members, no problems" in result.output, result.output
    result = CliRunner().invoke(make_shards, [*arguments, "--ray", "--part", "1/2"])
    assert result.exit_code == 1 and "--part and --ray both distribute the shards over machines" in result.output


def test_machines_that_share_a_store_alone(cluster, clips, tmp_path, monkeypatch):
    monkeypatch.setenv("NEMO_BIRQ_CACHE", str(tmp_path / "cache"))
    fsspec.filesystem("s3").put(str(clips), "bucket/clips_of_ray", recursive=True)
    recipe = RemoteFolderRecipe("s3://bucket/clips_of_ray")
    make(recipe, tmp_path / "one", max_skipped_share=0.5, **OPTIONS)
    make(recipe, "s3://bucket/ray", workers=cluster, max_skipped_share=0.5, **OPTIONS)
    system = fsspec.filesystem("s3")
    system.invalidate_cache()
    found = {name.removeprefix("bucket/ray/"): system.cat_file(name) for name in system.find("bucket/ray")}
    assert found == content(tmp_path / "one")


def test_lost_tasks_are_repeated_and_errors_are_those_of_the_jobs(cluster, tmp_path, monkeypatch):
    advance = ProgressBars(disable=True).start("jobs")
    jobs = [str(tmp_path / name) for name in "ab"]
    assert dict(cluster.run(killed_once, jobs, advance)) == dict(enumerate(jobs))
    with pytest.raises(BuildError, match=r"^b cannot be built: mend it$"):
        list(cluster.run(refused, ["b"], advance))
    monkeypatch.setattr(ray_cluster, "RETRIES", 1)
    with pytest.raises(BuildError, match=r"the cluster lost a task 2 times, .*; finished work is kept"):
        list(cluster.run(killed_always, ["b"], advance))
