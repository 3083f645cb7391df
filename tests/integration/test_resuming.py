"""A run that is killed in the middle of an epoch and resumed equals an uninterrupted run."""

import json
import signal
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from nemo_birq.monitoring.finite_check import NonFiniteError
from nemo_birq.runs import changed_settings, optimizer_settings
from tests.helpers.forked import run_forked
from tests.helpers.resume_worker import SAVE_EVERY, STEPS, Diary, train

pytestmark = pytest.mark.system
WORKER = "tests.helpers.resume_worker"


def seen(folder) -> list[list]:
    return [json.loads(line) for line in (folder / "seen.jsonl").read_text().splitlines()]


def test_killed_and_resumed_run_sees_the_same_utterances_and_ends_with_the_same_weights(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = train(whole)
    killed = run_forked([WORKER, str(broken), "--kill-after", "18", "--workers", "2"], entry=f"{WORKER}:main")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    first_part = seen(broken)
    assert first_part == seen(whole)[:19]  # with two workers the order is that without any
    found = train(broken, workers=1)
    resumed = seen(broken)[len(first_part) :]
    assert resumed[0][0] == 18 // SAVE_EVERY * SAVE_EVERY  # the last checkpoint before
    assert resumed == seen(whole)[resumed[0][0] :]
    assert all(torch.equal(value, expected[name]) for name, value in found.items())

    # Nothing lost, nothing twice: 60 utterances in an epoch, and the run went on into the second.
    epoch = Counter(name for _, names in seen(whole) for name in names)
    assert len(seen(whole)) == STEPS and len(epoch) == 60 and set(epoch.values()) == {1, 2}


class KilledError(BaseException):
    """Ends a run in this process like a signal: no handler catches it, and nothing is saved."""


def kill_here(_):
    raise KilledError


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 2, "val_check_interval": 14},
        # 21 batches an epoch: checkpoints at its end and around it, a schedule that follows from the epochs.
        {"max_epochs": 2, "max_steps": -1, "val_check_interval": 21},
        {"max_epochs": 4, "max_steps": -1, "limit_train_batches": 10, "val_check_interval": 5},
    ],
    ids=["accumulation", "epochs", "shorter epochs"],
)
def test_several_stops_leave_no_trace(tmp_path, monkeypatch, options):
    """Without corrections, Lightning would count one batch less after each stop."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = train(whole, **options)
    monkeypatch.setattr(Diary, "kill", kill_here)
    said = []
    for module in (changed_settings, optimizer_settings):
        monkeypatch.setattr(module, "logging", SimpleNamespace(info=said.append, warning=said.append))
    for step in (7, 21):
        with pytest.raises(KilledError):
            train(broken, kill_after=step, **options)
    found = train(broken, **options)
    assert seen(broken)[-1] == seen(whole)[-1]
    assert {json.dumps(entry) for entry in seen(broken)} == {json.dumps(entry) for entry in seen(whole)}
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert not said  # no setting has changed


def test_the_remedy_of_a_loss_that_is_not_finite_works(tmp_path):
    """The learning rate is far too high, except in the first step, where the schedule begins with 0."""
    absurd = ["model.optim.lr=1e30", "+model.optim.sched.constant_steps=1"]
    with pytest.raises(NonFiniteError, match=r"resume with a lower model\.optim\.lr"):
        train(tmp_path, overrides=absurd, save_every=1, max_steps=6)
    for path in tmp_path.glob("step=[2-6].ckpt"):
        path.unlink()  # finite, but far out of bounds
    found = train(tmp_path, overrides=["model.optim.lr=1e-3", absurd[1]], max_steps=6)
    assert seen(tmp_path)[-1][0] == 5 and all(value.isfinite().all() for value in found.values())
    settings = torch.load(tmp_path / "step=5.ckpt", weights_only=False)["optimizer_states"][0]["param_groups"][0]
    assert (settings["lr"], settings["initial_lr"]) == (pytest.approx(1e-3 * 5 / 50), 1e-3)
