"""A run that is stopped and resumed has the same logs, validations, alarms and records as an uninterrupted run."""

from contextlib import suppress

import pytest
import torch

from nemo_birq.checkpoint.lightning_checkpoint import read_checkpoint
from nemo_birq.checkpoint.training_record import record_training
from nemo_birq.data.trainer_hooks import OWED
from nemo_birq.monitoring import checkpoint_state
from tests.helpers.models import make_batch, make_model, train
from tests.helpers.stopping import StopAfter, StoppedError, train_tiny

pytestmark = pytest.mark.integration
OF_A_PROCESS = {"train_audio_hours_per_hour", "train_mfu", "train_memory_gb"}
WATCHED = [
    "model.birq.watch.gradient_interval=7",  # measured at step 13, logged at step 15
    "model.birq.watch.probe_seconds=4",
    "model.birq.watch.learned_by_step=10",  # an alarm at step 11
    "model.train_ds.batch_duration=4",
    "model.validation_ds.batch_duration=5",
]
OPTIONS = {
    "max_steps": 16,
    "log_every_n_steps": 4,
    "val_check_interval": 5,
    "check_val_every_n_epoch": None,
    "limit_val_batches": 2,
}
# The line of step 7 is due when the first checkpoint is saved, and validation when the second one is. The third one lies
# between two lines and two validations.
STOPS = ("batch", 8), ("batch", 10), ("batch", 14)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The uninterrupted run and the one with stops: model, logged lines, validations, folder. And the last checkpoint."""
    whole, broken = (tmp_path_factory.mktemp(name) for name in ("whole", "broken"))
    model, lines, stopping = train_tiny(whole, overrides=WATCHED, **OPTIONS)
    uninterrupted = model, lines, stopping.validated, whole
    lines, validated, ckpt = [], [], None
    for stop in (*STOPS, None):
        model, logged, stopping = train_tiny(broken, stop, ckpt, overrides=WATCHED, **OPTIONS)
        lines, validated, ckpt = lines + logged, validated + stopping.validated, stopping.path
    return uninterrupted, (model, lines, validated, broken), ckpt


def test_every_logged_number_is_that_of_the_uninterrupted_run(runs):
    (_, expected, _, _), (_, found, _, _), _ = runs
    assert [step for step, _ in found] == [step for step, _ in expected]
    names = set().union(*(line for _, line in expected))
    assert {"train_gradient_cosine", "train_enhanced_churn", "val_enhanced_previous_agreement"} <= names
    for (step, line), (_, uninterrupted) in zip(found, expected, strict=True):
        assert line.keys() == uninterrupted.keys(), step
        assert {name for name, value in line.items() if value != uninterrupted[name]} <= OF_A_PROCESS, step


def test_weights_validations_alarms_and_record_are_those_of_the_uninterrupted_run(runs):
    (expected, _, validations, whole), (found, _, validated, broken), _ = runs
    weights = found.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in expected.state_dict().items())
    assert validated == validations == [(5, 2), (10, 2), (15, 2)]  # all steps, and both batches
    alarms = (broken / "alarms.json").read_text()
    assert "anchor_not_learned" in alarms and alarms == (whole / "alarms.json").read_text()
    records = [record_training(model, model.trainer, model.monitor) for model in (expected, found)]
    assert all(record["health"]["training"].pop("mfu") > 0 for record in records)  # of a process
    assert records[0] == records[1] and len(records[0]["health"]["validation"]) == 14


def test_a_finished_run_that_is_started_again_has_its_record_and_its_alarms(runs, tmp_path):
    (expected, _, _, whole), _, _ = runs
    expected.trainer.save_checkpoint(tmp_path / "finished.ckpt")
    again, lines, _ = train_tiny(tmp_path, ckpt=tmp_path / "finished.ckpt", overrides=WATCHED, **OPTIONS)
    assert lines == []  # nothing is left to train
    records = [record_training(model, model.trainer, model.monitor) for model in (expected, again)]
    assert records[0] == records[1] and records[0]["health"]["training"]
    assert (tmp_path / "alarms.json").read_text() == (whole / "alarms.json").read_text()


def test_the_state_is_plain_and_not_needed(runs, tmp_path):
    """Checkpoints are read without running code; those of earlier versions have no state of these kinds."""
    _, _, ckpt = runs
    content = read_checkpoint(ckpt)
    assert content[checkpoint_state.KEY]["logged"]["training"]["anchor_loss"] > 0
    del content[checkpoint_state.KEY], content[OWED]
    torch.save(content, tmp_path / "earlier.ckpt")
    model, lines, _ = train_tiny(tmp_path, ckpt=tmp_path / "earlier.ckpt", overrides=WATCHED, **OPTIONS)
    assert [step for step, _ in lines] == [14, 15] and model.trainer.global_step == 16


EVERY_2 = {"val_check_interval": 2, "check_val_every_n_epoch": None}
EPOCHS = {"steps": -1, "limit_train_batches": 2, "val_check_interval": 1.0, "check_val_every_n_epoch": 1}
QUIET = {"birq__watch__gradient_interval": 0, "birq__watch__probe_seconds": 0.0}


def train_small(folder, stopping, ckpt, **options):
    options |= {"callbacks": [stopping], "log_every_n_steps": 100, "num_sanity_val_steps": 0}
    model = make_model(**QUIET)
    with suppress(StoppedError):
        train(model, folder, change=lambda batch: make_batch((0.6,)), ckpt_path=ckpt, **options)
    return model.trainer


@pytest.mark.parametrize(
    ("options", "stops", "expected"),
    [
        (EVERY_2 | {"steps": 5}, [("validation", 2), ("batch", 3), ("batch", 4)], [2, 4]),
        (EVERY_2 | {"steps": 5, "limit_train_batches": 2}, [("batch", 2), ("validation", 4)], [2, 4]),
        (EVERY_2 | {"steps": 5, "limit_train_batches": 3}, [("batch", 3), ("batch", 4)], [2, 4]),
        (EVERY_2 | {"steps": 5, "limit_train_batches": 3}, [("epoch", 3)], [2, 4]),
        (EPOCHS | {"max_epochs": 2}, [("batch", 2), ("batch", 4)], [2, 4]),
        (EPOCHS | {"max_epochs": 2}, [("validation", 2), ("batch", 3)], [2, 4]),
        (EPOCHS | {"steps": 5}, [("epoch", 2), ("batch", 3)], [2, 4]),
        (EPOCHS | {"steps": 4, "check_val_every_n_epoch": 2}, [("batch", 2), ("batch", 4)], [4]),
        (EVERY_2 | {"steps": 4}, [("batch", 4)], [2, 4]),  # the last step, with its validation still to come
        # Epochs of two steps, of which the second has a single batch: five batches are three steps.
        (
            EVERY_2 | {"steps": 5, "accumulate_grad_batches": 2, "val_check_interval": 5, "limit_train_batches": 3},
            [("batch", 2), ("batch", 3)],
            [3],
        ),
    ],
)
def test_validation_keeps_its_steps(tmp_path, options, stops, expected):
    validated, ckpt = [], None
    for stop in (*stops, None):
        stopping = StopAfter(stop, tmp_path / f"{stop}.ckpt")
        train_small(tmp_path, stopping, ckpt, **options)
        assert stop is None or stopping.path.exists()
        validated += [step for step, _ in stopping.validated]
        ckpt = stopping.path
    assert validated == expected


def test_no_step_is_added_for_a_validation_that_the_settings_no_longer_ask_for(tmp_path):
    stopping = StopAfter(("batch", 4), tmp_path / "stopped.ckpt")
    train_small(tmp_path, stopping, None, **EVERY_2 | {"steps": 4})
    trainer = train_small(
        tmp_path, StopAfter(None, tmp_path), stopping.path, **EVERY_2 | {"steps": 4, "val_check_interval": 3}
    )
    assert (trainer.global_step, trainer.max_steps) == (4, 4)
