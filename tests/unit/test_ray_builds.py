"""Builds on a Ray cluster of this machine: the result is that of one process, also where tasks are killed."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from nemo_birq.data.shards.build_command import make_shards
from nemo_birq.data.shards.recipes.folder import FolderRecipe
from nemo_birq.data.shards.segments import BuildError
from nemo_birq.data.shards.verify_command import verify_shards
from nemo_birq.utils.progress import ProgressBars
from tests.helpers.ray_jobs import killed_always, killed_once, refused
from tests.helpers.shards import make, noise, write

pytestmark = pytest.mark.unit
ray = pytest.importorskip("ray", reason="pip install 'nemo_birq[ray]'")

from nemo_birq.data.shards import ray_cluster  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error", object_store_memory=100 << 20)
    yield ray_cluster.RayCluster("any")
    ray.shutdown()


def content(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def test_the_bytes_are_those_of_one_process(cluster, tmp_path):
    for i in range(6):
        write(tmp_path / "clips" / f"{i}.flac", noise(1 + 0.5 * i))
    write(tmp_path / "clips" / "long.wav", noise(9))
    (tmp_path / "clips" / "broken.flac").write_bytes(b"no audio")
    options = {"num_shards": 4, "max_duration": 4.0}
    make(FolderRecipe(tmp_path / "clips"), tmp_path / "one", max_skipped_share=0.5, **options)
    arguments = ["folder", str(tmp_path / "clips"), "--out", str(tmp_path / "ray"), "--max-skipped-share", "0.5"]
    arguments += ["--num-shards", "4", "--max-duration", "4.0"]
    result = CliRunner().invoke(make_shards, [*arguments, "--ray"])
    assert result.exit_code == 0, result.output
    assert content(tmp_path / "ray") == content(tmp_path / "one")
    result = CliRunner().invoke(verify_shards, [str(tmp_path / "ray"), "--ray"])
    assert result.exit_code == 0 and "members, nothing wrong" in result.output, result.output
    result = CliRunner().invoke(make_shards, [*arguments, "--ray", "--part", "1/2"])
    assert result.exit_code == 1 and "--part and --ray both spread the shards over machines" in result.output


def test_lost_tasks_are_repeated_and_errors_are_those_of_the_jobs(cluster, tmp_path, monkeypatch):
    advance = ProgressBars(disable=True).start("jobs")
    jobs = [str(tmp_path / name) for name in "ab"]
    assert dict(cluster.run(killed_once, jobs, advance)) == dict(enumerate(jobs))
    with pytest.raises(BuildError, match=r"^b cannot be built: mend it$"):
        list(cluster.run(refused, ["b"], advance))
    monkeypatch.setattr(ray_cluster, "RETRIES", 1)
    with pytest.raises(BuildError, match=r"the cluster lost a task 2 times, .*; what is finished is kept"):
        list(cluster.run(killed_always, ["b"], advance))
