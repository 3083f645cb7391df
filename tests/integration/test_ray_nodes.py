"""A build on a Ray cluster of two nodes, of which one is killed in the middle: the shards are those of one process."""

import threading
import time
from pathlib import Path

import pytest

from nemo_birq.data.shards.recipes.folder import FolderRecipe
from tests.helpers.shards import make, noise, write

pytestmark = pytest.mark.integration
ray = pytest.importorskip("ray", reason="pip install 'nemo_birq[ray]'")

from ray.cluster_utils import Cluster  # noqa: E402

from nemo_birq.data.shards import ray_cluster  # noqa: E402

OPTIONS = {"num_shards": 16, "max_duration": 4.0}
NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture
def nodes(monkeypatch):
    """A cluster of two nodes with a CPU each; yields the cluster and its second node."""
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 otherwise, which is little on a machine that has other work
    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    second = cluster.add_node(**NODE)
    ray.init(cluster.address, log_to_driver=False, logging_level="error")
    yield cluster, second
    ray.shutdown()
    cluster.shutdown()


def content(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def test_a_node_is_killed_in_the_middle(nodes, tmp_path, monkeypatch):
    cluster, second = nodes
    (tmp_path / "clips").mkdir()
    for number in range(64):
        write(tmp_path / "clips" / f"{number}.flac", noise(4))
    make(FolderRecipe(tmp_path / "clips"), tmp_path / "one", **OPTIONS)
    killed = []

    def kill() -> None:
        while len(list((tmp_path / "ray").glob("audio_*.tar"))) < 3 or ray.available_resources().get("CPU"):
            time.sleep(0.01)  # until some shards are there, and both nodes are building one
        cluster.remove_node(second, allow_graceful=False)
        killed.append(len(list((tmp_path / "ray").glob("audio_*.tar"))))

    killer = threading.Thread(target=kill)
    killer.start()
    make(FolderRecipe(tmp_path / "clips"), tmp_path / "ray", workers=ray_cluster.RayCluster(ray_cluster.ANY), **OPTIONS)
    killer.join()
    assert killed[0] < OPTIONS["num_shards"]
    assert content(tmp_path / "ray") == content(tmp_path / "one")
