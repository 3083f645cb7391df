"""Endings of a pretraining besides its last step: NeMo's early stopping, moving averages and time limits."""

import re

import pytest
import torch

from nemo_birq.checkpoint.lightning_checkpoint import read_checkpoint
from nemo_birq.checkpoint.nemo_archive import read_config, read_weights
from tests.helpers.paths import CORPUS
from tests.helpers.scripts import pretrain

pytestmark = pytest.mark.integration
SHORT = [
    f"model.train_ds.manifest_filepath={CORPUS}/validation/validation.json", "model.train_ds.tarred_audio_filepaths=null",
    f"model.validation_ds.manifest_filepath={CORPUS}/test/test.json", "+trainer.limit_val_batches=1", "trainer.max_steps=40",
    "trainer.num_sanity_val_steps=0", "trainer.val_check_interval=2",
]  # fmt: skip


def test_early_stopping_ends_a_run_for_good_with_the_moving_average(tmp_path):
    params = "+exp_manager.early_stopping_callback_params"
    options = [
        "+exp_manager.create_early_stopping_callback=true", f"{params}.patience=1", f"{params}.min_delta=100",
        "+exp_manager.ema.enable=true", "+exp_manager.ema.decay=0.5",
    ]  # fmt: skip
    printed = pretrain(tmp_path, *SHORT, *options)
    (nemo,) = tmp_path.rglob("small.nemo")
    assert f"The training has ended after 4 steps: {nemo}" in printed
    plain, average = (read_checkpoint(nemo.parent / f"small--step=4-last{end}.ckpt")["state_dict"] for end in ("", "-EMA"))
    saved = read_weights(nemo)
    assert all(torch.equal(value, average[name]) for name, value in saved.items())
    assert not all(torch.equal(value, plain[name]) for name, value in saved.items())
    assert read_config(nemo).pretraining.steps == 4
    before = nemo.read_bytes()
    assert "The training has ended after 4 steps" in pretrain(tmp_path, *SHORT, *options)
    assert nemo.read_bytes() == before and {path.name for path in nemo.parent.glob("*.nemo")} == {"small.nemo"}


def test_a_time_limit_ends_the_process_and_not_the_training(tmp_path):
    steps = []
    for _ in range(2):
        printed = pretrain(tmp_path, *SHORT, "trainer.max_steps=4000", "+exp_manager.max_time_per_run=00:00:00:01")
        (last,) = tmp_path.rglob("*-last.ckpt")
        found = re.search(rf"max_time_per_run has ended this run after step (\d+)\. {last} is saved", printed)
        steps.append(int(found[1]))
    assert 0 < steps[0] < steps[1] and not list(tmp_path.rglob("*.nemo"))


def test_a_time_budget_ends_the_training_and_a_larger_one_goes_on(tmp_path):
    """Unlike max_time_per_run, Lightning's max_time counts the time of all runs, and ends with a .nemo."""
    steps = []
    for seconds in (2, 4):
        pretrain(tmp_path, *SHORT, "trainer.max_steps=4000", f"+trainer.max_time=00:00:00:{seconds:02d}")
        (last,), (nemo,) = tmp_path.rglob("*-last.ckpt"), tmp_path.rglob("small.nemo")
        steps.append(read_checkpoint(last)["global_step"])
        assert read_config(nemo).pretraining.steps == steps[-1]
    assert 0 < steps[0] < steps[1]
