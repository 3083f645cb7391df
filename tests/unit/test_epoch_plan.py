"""Plans of epochs: every utterance once, batches within their limits, the same again, and resumable anywhere."""

import random
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nemo.collections.common.data.lhotse.dataloader import LhotseDataLoadingConfig, determine_bucket_duration_bins
from omegaconf import OmegaConf

from nemo_birq.data import epoch_plan
from nemo_birq.data.dataloader import BatchOrder
from nemo_birq.data.epoch_batches import BatchSettings, duration_bins
from nemo_birq.data.epoch_plan import order_of_utterances, plan_epoch

pytestmark = pytest.mark.unit


class Index:
    """Durations and shards of a dataset that is not read."""

    def __init__(self, size: int, shards: int = 4, seed: int = 0):
        self.durations = np.random.default_rng(seed).uniform(0.3, 20.0, size)
        self.shards = np.sort(np.arange(size) % shards).astype(np.int32)
        self.path = type("Path", (), {"name": f"{size}-{shards}-{seed}"})

    def __len__(self) -> int:
        return len(self.durations)


BUCKETS = {"batch_duration": 60.0, "use_bucketing": True, "num_buckets": 4, "bucket_duration_bins": (5.0, 10.0, 15.0)}
MANNERS = {
    "by duration": {"batch_duration": 60.0},
    "by number": {"batch_size": 7},
    "buckets": BUCKETS | {"bucket_buffer_size": 100},
    "fixed buckets": {"use_bucketing": True, "bucket_duration_bins": (7.0, 20.0), "bucket_batch_size": (6, 3)},
    "one bucket": {"batch_duration": 60.0, "use_bucketing": True, "num_buckets": 1},
    "estimated buckets": {"batch_duration": 60.0, "use_bucketing": True, "num_buckets": 5},
}


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_epoch_holds_every_utterance_once(manner, shuffle):
    index = Index(500)
    chosen = BatchSettings(**MANNERS[manner], shuffle=shuffle, shuffle_buffer_size=50, min_duration=1.0)
    usable = np.flatnonzero(index.durations >= 1.0)
    for epoch in (0, 1):
        plan = plan_epoch([index], None, chosen, epoch, 2)
        assert sorted(plan.rows) == usable.tolist()
        assert sum(len(batch) for batch in plan.batches(0, len(plan))) == len(usable)
    again = plan_epoch([index], None, chosen, 1, 2)
    assert (again.rows == plan.rows).all() and (again.ends == plan.ends).all()
    if shuffle:
        assert (plan_epoch([index], None, chosen, 0, 2).rows != plan.rows).any()
    elif not chosen.use_bucketing:
        assert (plan.rows == usable).all()


@pytest.mark.parametrize("manner", MANNERS)
def test_the_parts_of_a_large_epoch_make_a_whole_plan(manner, monkeypatch):
    index = Index(500)
    chosen = BatchSettings(**MANNERS[manner], shuffle=True, shuffle_buffer_size=50)
    monkeypatch.setattr(epoch_plan, "UTTERANCES_OF_A_PART", 150)
    plan = plan_epoch([index], None, chosen, 0, 3)
    assert sorted(plan.rows) == list(range(500))
    batches = plan.batches(0, len(plan))
    assert all(len(batch) for batch in batches) and np.array_equal(np.concatenate(batches), plan.rows)


def test_the_parts_of_a_large_epoch_keep_the_order_of_ranks(monkeypatch):
    index = Index(3000)
    chosen = BatchSettings(**BUCKETS, shuffle=True)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    grouped = {}
    for size in (3000, 1000):
        monkeypatch.setattr(epoch_plan, "UTTERANCES_OF_A_PART", size)
        plan = plan_epoch([index], None, chosen, 0, 3)
        buckets = [
            set(np.searchsorted(chosen.bucket_duration_bins, index.durations[batch])) for batch in plan.batches(0, 999)
        ]
        assert all(len(bucket) == 1 for bucket in buckets)
        grouped[size] = np.mean([len(set.union(*buckets[at : at + 3])) == 1 for at in range(0, len(buckets), 3)])
    assert grouped[1000] > grouped[3000] - 0.05 > 0.8  # the ranks of a step get batches of one bucket
    parallel = plan_epoch([index], None, chosen, 0, 3, parallel=True)
    assert np.array_equal(parallel.rows, plan.rows) and np.array_equal(parallel.ends, plan.ends)


@pytest.mark.parametrize("manner", ["buckets", "estimated buckets"])
def test_padded_batches_stay_near_batch_duration(manner):
    """Lhotse closes a batch when one more utterance as long as its longest would not fit; buckets keep lengths alike."""
    index = Index(500)
    plan = plan_epoch([index], None, BatchSettings(**MANNERS[manner], shuffle=True), 0, 1)
    padded = [len(batch) * index.durations[batch].max() for batch in plan.batches(0, len(plan))]
    assert max(padded) < 1.25 * 60.0
    assert np.median(padded) > 45.0


def padding(plan, durations):
    batches = [durations[batch] for batch in plan.batches(0, len(plan))]
    return 1 - sum(batch.sum() for batch in batches) / sum(len(batch) * batch.max() for batch in batches)


def test_buckets_have_equal_hours_and_less_padding_than_nemos():
    index = Index(4000)
    index.durations = np.random.default_rng(1).lognormal(np.log(2.0), 0.8, 4000)  # as in meetings: many short utterances
    index.durations[:5] = 7200.0  # whole recordings, which max_duration leaves out
    node = {"batch_duration": 240.0, "use_bucketing": True, "num_buckets": 30, "max_duration": 30.0, "min_duration": 0.5}
    nemo = determine_bucket_duration_bins(OmegaConf.merge(OmegaConf.structured(LhotseDataLoadingConfig), node))
    ours = BatchSettings(**node, shuffle=True)
    plan = plan_epoch([index], None, ours, 0, 1)
    usable = index.durations[(index.durations >= 0.5) & (index.durations <= 30.0)]
    hours = np.bincount(np.searchsorted(duration_bins(usable, ours), usable, side="right"), weights=usable)
    assert len(hours) == 30 and hours.std() < 0.05 * hours.mean()
    assert padding(plan, index.durations) < 0.1
    assert padding(plan_epoch([index], None, replace(ours, bucket_duration_bins=nemo), 0, 1), index.durations) > 0.14


@pytest.mark.parametrize("durations", [[4.0] * 50, [3.0], [2.0, 2.0, 5.0]])
def test_buckets_of_equal_and_of_few_utterances(durations):
    index = Index(len(durations), shards=1)
    index.durations = np.array(durations)
    plan = plan_epoch([index], None, BatchSettings(batch_duration=12.0, use_bucketing=True, num_buckets=8), 0, 1)
    assert sorted(plan.rows) == list(range(len(durations)))


def test_fixed_buckets_have_their_sizes():
    index = Index(500)
    plan = plan_epoch([index], None, BatchSettings(**MANNERS["fixed buckets"], shuffle=True), 0, 1)
    sizes = Counter((bool(index.durations[batch].max() < 7.0), len(batch)) for batch in plan.batches(0, len(plan)))
    short = int((index.durations < 7.0).sum())
    assert sizes[True, 6] == short // 6 and sizes[False, 3] == (500 - short) // 3
    assert sum(sizes.values()) == sizes[True, 6] + sizes[False, 3] + (short % 6 > 0) + ((500 - short) % 3 > 0)


def test_few_shards_are_open_at_a_time():
    index = Index(1000, shards=20)
    order = order_of_utterances([index], None, BatchSettings(shuffle=True), 5)
    visits = index.shards[order]
    assert (np.diff(visits) != 0).sum() == 19  # one shard after the other
    assert visits[0] != 0 or visits[-1] != 19  # in another order
    first = order[visits == visits[0]]
    assert (np.diff(first) < 0).any()


def test_ranks_get_batches_of_like_length():
    index = Index(2000)
    plan = plan_epoch([index], None, BatchSettings(**BUCKETS, shuffle=True), 0, 4)
    longest = [index.durations[batch].max() for batch in plan.batches(0, len(plan))]
    steps = np.array(longest[: len(longest) // 4 * 4]).reshape(-1, 4)
    assert np.median(np.ptp(steps, axis=1)) < 0.3 * np.median(
        np.abs(np.diff(random.Random(0).sample(longest, len(longest))))
    )


def test_weights_repeat_and_never_lose():
    small, large = Index(30), Index(100, seed=1)
    order = order_of_utterances([small, large], [1.0, 1.0], BatchSettings(shuffle=True), 0)
    counts = np.bincount(order, minlength=130)
    assert counts[30:].tolist() == [1] * 100 and counts[:30].sum() == 100 and set(counts[:30]) == {3, 4}
    halves = (order[:100] < 30).mean(), (order[100:] < 30).mean()
    assert halves == pytest.approx((0.5, 0.5), abs=0.02)  # evenly mixed


def order(index: Index, rank=0, world_size=1, endless=True) -> BatchOrder:
    return BatchOrder([index], None, BatchSettings(**BUCKETS, shuffle=True), rank, world_size, endless)


@given(size=st.integers(1, 60), world_size=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_ranks_share_an_epoch_without_loss_or_repetition(size, world_size):
    index = Index(size)
    shares = [list(order(index, rank, world_size, endless=False)) for rank in range(world_size)]
    assert {len(share) for share in shares} == {len(order(index, 0, world_size))}  # equally many steps
    assert sorted(row for share in shares for rows in share for row in rows) == list(range(size))


@given(stop=st.integers(0, 70), ranks=st.tuples(st.integers(1, 4), st.integers(1, 4)))
@settings(max_examples=25, deadline=None)
def test_resumed_on_other_ranks_an_epoch_is_completed(stop, ranks):
    """The utterances before and after the stop make whole epochs."""
    before, after = ranks
    index = Index(400)
    first = [order(index, rank, before) for rank in range(before)]
    seen: Counter = Counter()
    for one in first:
        for rows in islice(iter(one), stop):
            seen.update(rows)
            one.advance()
    position = first[0].epoch, first[0].batch, first[0].planned_for
    assert all((one.epoch, one.batch, one.planned_for) == position for one in first)
    for rank in range(after):
        one = order(index, rank, after)
        one.epoch, one.batch, one.planned_for = position
        steps = -(-(len(one.plan(position[0], before)) - one.batch) // after)
        for rows in islice(iter(one), max(0, steps)):
            seen.update(rows)
    assert set(seen.values()) == {position[0] + 1} and len(seen) == 400
