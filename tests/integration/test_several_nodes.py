"""Two nodes with their own caches and copies of the data, or a server, compared with two ranks on one; then one node."""

import shutil
from pathlib import Path

import pytest

from benchmarks.reliability.runs import PRETRAIN, rank_environments
from benchmarks.several_nodes import compare
from tests.helpers.forked import run_forked
from tests.helpers.paths import CORPUS
from tests.helpers.stores import http_store

pytestmark = pytest.mark.integration
STEPS = 4


def environments(folder: Path, nodes: int) -> list[dict[str, str]]:
    """Returns the environments of two ranks like torchrun, each rank with the data and the cache of its node."""
    found = []
    for rank, shared in enumerate(rank_environments(2)):
        node = rank if nodes == 2 else 0
        place = {"NEMO_BIRQ_CACHE": f"{folder}/cache{node}", "NODE_DATA": f"{folder}/data{node}"}
        own = {"NODE_RANK": str(node), "GROUP_RANK": str(node), "GROUP_WORLD_SIZE": str(nodes)}
        local = {"LOCAL_RANK": str(rank if nodes == 1 else 0), "LOCAL_WORLD_SIZE": str(2 // nodes)}
        found.append(shared | place | own | local)
    return found


def train(experiments: Path, env: list[dict[str, str]], nodes: int, devices: int, steps: int) -> str:
    manifest = "${oc.env:NODE_DATA}/validation.json"
    data = [f"model.{part}_ds.manifest_filepath={manifest}" for part in ("train", "validation")]
    length = [f"trainer.max_steps={steps}", f"trainer.val_check_interval={STEPS}", f"exp_manager.exp_dir={experiments}"]
    ranks = [f"trainer.num_nodes={nodes}", f"trainer.devices={devices}", "trainer.strategy=ddp"]
    done = run_forked([*PRETRAIN, *data, *length, *ranks, "+exp_manager.seconds_to_sleep=1"], env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_two_nodes_train_as_one_and_one_goes_on_alone(tmp_path):
    for node in (0, 1):
        shutil.copytree(CORPUS / "validation", tmp_path / f"data{node}")
    one, two = tmp_path / "one", tmp_path / "two"
    train(one, environments(tmp_path, nodes=1), 1, 2, STEPS)
    assert not (tmp_path / "cache1").exists()
    train(two, environments(tmp_path, nodes=2), 2, 1, STEPS)
    assert list((tmp_path / "cache1").glob("*.arrow"))
    served = tmp_path / "served"
    with http_store(CORPUS / "validation") as (store, url):
        fresh = [{"NODE_DATA": url, "NEMO_BIRQ_CACHE": f"{tmp_path}/cache{node}"} for node in ("2", "3")]
        train(served, [env | own for env, own in zip(environments(tmp_path, nodes=2), fresh, strict=True)], 2, 1, STEPS)
        assert store.requests > 0
    for other in (two, served):
        found = compare(one, other)
        assert found["numbers"] > 100 and len(found["losses"]) == STEPS and found["weights"] > 50
        assert found["numbers_that_differ"] == [] and found["weights_that_differ"] == 0
    alone = {"NODE_DATA": f"{tmp_path}/data0", "NEMO_BIRQ_CACHE": f"{tmp_path}/cache0"}
    log = train(two, [alone], 1, 1, STEPS + 2)
    assert f"The data continue in epoch 0 after batch {2 * STEPS} of" in log
