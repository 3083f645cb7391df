"""Plans of large epochs: those of one process, made once, mapped by all, and the next one made meanwhile."""

import time
from itertools import islice

import numpy as np
import pytest

from nemo_birq.data import shared_plans
from nemo_birq.data.dataloader import BatchOrder
from nemo_birq.data.epoch_batches import BatchSettings
from nemo_birq.data.epoch_plan import plan_epoch
from nemo_birq.data.index import open_index
from nemo_birq.data.shared_plans import KEPT, PlanRequest, shared_plan
from nemo_birq.data.sources import Source
from tests.helpers.paths import CORPUS

pytestmark = pytest.mark.unit
SETTINGS = BatchSettings(batch_duration=30.0, shuffle=True, use_bucketing=True, num_buckets=3)


@pytest.fixture
def request_of(monkeypatch, tmp_path):
    """Returns requests for the embedded corpus as if it were large, with a separate cache folder."""
    monkeypatch.setattr(shared_plans, "LEAST_UTTERANCES", 400)
    monkeypatch.setenv("NEMO_BIRQ_CACHE", str(tmp_path))
    train = f"{CORPUS}/train/"
    manifests = f"{train}sharded_manifests/manifest__OP_0..3_CL_.json"
    indexes = [open_index(Source(manifests, f"{train}audio__OP_0..3_CL_.tar", None))]
    return lambda epoch: PlanRequest("0123", indexes, None, SETTINGS, epoch, 2)


def assert_same(plan, request: PlanRequest) -> None:
    expected = plan_epoch(request.indexes, None, SETTINGS, request.epoch, request.world_size)
    assert np.array_equal(plan.rows, expected.rows) and np.array_equal(plan.ends, expected.ends)
    assert all(np.array_equal(*pair) for pair in zip(plan.batches(0, 9), expected.batches(0, 9), strict=True))


def test_a_plan_is_made_once_and_mapped(request_of, monkeypatch):
    request = request_of(3)
    assert_same(shared_plan(request), request)
    monkeypatch.setattr(PlanRequest, "make", lambda self: pytest.fail("it is made again"))
    plan = shared_plan(request)
    assert isinstance(plan.rows, np.memmap)
    assert_same(plan, request)


def test_plans_of_epochs_that_are_over_are_deleted(request_of):
    first, *_ = [shared_plan(request_of(epoch)) for epoch in range(6)]
    assert sorted(path.name for path in request_of(0).folder.glob("?.npy")) == [f"{6 - n}.npy" for n in range(KEPT, 0, -1)]
    assert_same(first, request_of(0))  # who has mapped it keeps it


def test_the_next_plan_is_made_meanwhile_for_training(request_of, monkeypatch):
    indexes = request_of(0).indexes
    BatchOrder(indexes, None, SETTINGS, 0, 2, endless=False)
    order = BatchOrder(indexes, None, SETTINGS, 0, 2, endless=True)
    following = PlanRequest(order.fingerprint, indexes, None, SETTINGS, 1, 2)
    deadline = time.monotonic() + 60
    while not (following.folder / "1.npy").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    monkeypatch.setattr(PlanRequest, "make", lambda self: pytest.fail("it is made again"))
    begun = []
    monkeypatch.setattr("nemo_birq.data.dataloader.prepare_plan", begun.append)
    steps = len(order) + 5  # over the end of the epoch
    batches = list(islice(order, steps))
    assert batches[-1].position[0] == 1
    assert_same(order.plan(1, 2), following)
    assert [request.epoch for request in begun] == [2]
    monkeypatch.undo()
    assert list(islice(BatchOrder(indexes, None, SETTINGS, 0, 2, endless=True), steps)) == batches
