"""Kills at the worst moments of a run; ``make storm`` tries all moments."""

import signal
from collections.abc import Callable

import pytest

from benchmarks.reliability import disturbances as do
from benchmarks.reliability.disturbances import Disturbance
from benchmarks.reliability.outcome import differences
from benchmarks.reliability.plans import Observed, observe
from benchmarks.reliability.runs import pretraining
from benchmarks.reliability.storms import Stage, Storm
from tests.helpers.forked import SERVER

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Stage:
    return Stage(SERVER, tmp_path_factory.mktemp("storms"), tmp_path_factory.mktemp("temporary"))


@pytest.fixture(scope="module")
def whole(stage) -> Observed:
    return observe(stage, pretraining(steps=6))


def two_last_checkpoints(whole: Observed) -> Disturbance:
    removed = [n for n, op in enumerate(whole.operations) if op.kind == "os.remove" and op.paths[0].endswith("-last.ckpt")]
    return do.kill_at(removed[-1])


def an_unfinished_marker(whole: Observed) -> Disturbance:
    return do.kill_at(whole.saves[-1][-1] + 1)


def the_middle_of_a_checkpoint(whole: Observed) -> Disturbance:
    return do.kill_inside(whole.saves[1][-1], whole.sizes[".ckpt"] // 2)


def the_last_checkpoint_without_a_nemo(whole: Observed) -> Disturbance:
    return do.kill_at(whole.end)


def the_middle_of_the_nemo(whole: Observed) -> Disturbance:
    return do.kill_inside(whole.end - 1, int(0.99 * whole.sizes[".nemo"]))


def a_nemo_without_a_card(whole: Observed) -> Disturbance:
    return do.kill_at(len(whole.operations) - 1)


def a_terminated_run(whole: Observed) -> Disturbance:
    return do.send_at(whole.middle, signal.SIGTERM)


@pytest.mark.parametrize(
    "moment",
    [
        two_last_checkpoints, an_unfinished_marker, the_middle_of_a_checkpoint, the_last_checkpoint_without_a_nemo,
        the_middle_of_the_nemo, a_nemo_without_a_card, a_terminated_run,
    ],
)  # fmt: skip
def test_a_killed_run_ends_as_an_uninterrupted_one(stage, whole, moment: Callable[[Observed], Disturbance]):
    result = stage.weather(Storm("aimed", whole.run, [moment(whole)]), whole.outcome, moment.__name__)
    assert (result.starts, result.kills) == (2, 1)
    assert result.needed_a_person is None and result.complaints == []


def test_a_difference_is_found(whole):
    """It is found in a single bit of the weights, in the alarms and in the names of files."""
    for part in (
        "state_dict",
        "optimizer_states",
        "birq_label_tensors",
        "alarms.json",
        "model_weights",
        "metrics:",
        "README",
    ):
        name = next(name for name in whole.outcome if part in name)
        changed = whole.outcome | {name: "another value"}
        assert len(differences(changed, whole.outcome)) == 1
    assert len(differences(whole.outcome | {"checkpoints/a.part": "present"}, whole.outcome)) == 1
