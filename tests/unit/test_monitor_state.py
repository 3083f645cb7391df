"""The state of the health monitor in a checkpoint, without a whole run."""

import math
import time

import lightning.pytorch as pl
import pytest
import torch

from nemo_birq.checkpoint.lightning_checkpoint import read_checkpoint
from nemo_birq.monitoring import checkpoint_state
from nemo_birq.monitoring.gradient_health import GradientProducts
from nemo_birq.monitoring.training_log import TrainingLog
from tests.helpers.models import SAMPLE_RATE, make_batch, make_model, train

pytestmark = pytest.mark.unit


def test_the_throughput_is_that_of_both_parts_without_the_time_between():
    log = TrainingLog(8, 1, SAMPLE_RATE)
    log.count(make_batch((2.0, 1.0)))
    log.since -= 100  # the part before took so long
    state = log.state_of_rank()
    other = TrainingLog(8, 1, SAMPLE_RATE)
    other.load_state_of_rank(state)
    other.since -= 1000  # until the resumed run trains
    other.start_clock()
    assert other.collect()["audio_hours_per_hour"] == pytest.approx(3 / 100, rel=0.01)
    assert time.monotonic() - other.since < 10  # the next window is its own


def test_skipped_utterances_are_counted_from_the_start():
    log, other = TrainingLog(8, 1, SAMPLE_RATE), TrainingLog(8, 1, SAMPLE_RATE)
    batch = make_batch((0.5, 0.5))._replace(skipped=3)
    log.count(batch)
    log.collect()
    other.load_state_of_rank(log.state_of_rank())
    other.count(batch._replace(skipped=1))
    metrics = other.collect()
    assert (metrics["skipped_utterances"], metrics["skipped_share"]) == (4, 4 / 8)


def test_a_resumed_run_can_go_on_once_the_data_are_repaired(tmp_path):
    """The checkpoint lies between the unreadable data and the logged step that would have stopped the run."""
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="kept", every_n_train_steps=2)
    options = {"log_every_n_steps": 3, "callbacks": [saving], "enable_checkpointing": True}
    read = []

    def break_second(batch):
        read.append(batch)
        return batch._replace(skipped=50 * (len(read) == 3))  # the first is for validation

    with pytest.raises(RuntimeError, match="max_skipped_share"):
        train(make_model(), tmp_path, 3, change=break_second, **options)
    content = read_checkpoint(tmp_path / "kept.ckpt")
    assert checkpoint_state.skipped(content[checkpoint_state.KEY])[0] == 50
    trainer = train(make_model(), tmp_path / "again", 3, ckpt_path=tmp_path / "kept.ckpt", log_every_n_steps=3)
    assert trainer.global_step == 3 and trainer.callback_metrics["train_skipped_utterances"] == 0


def test_another_number_of_ranks_goes_on_with_the_sums_of_all():
    logs = [TrainingLog(24, 1, SAMPLE_RATE) for _ in range(2)]
    for number, log in enumerate(logs):
        log.count(make_batch((1.0, 1.0 + number))._replace(skipped=number))
    monitor = make_model().monitor
    state = checkpoint_state.collect(monitor)
    labels = {"train": torch.zeros(3, 1), "val": None}
    ranks = [{"log": log.state_of_rank(), "probe": [100], "labels": labels} for log in logs]
    checkpoint_state.restore(monitor, state | {"ranks": ranks}, torch.device("cpu"))
    assert float(monitor.training_log.audio_seconds.compute()) == 5.0
    assert monitor.training_log.collect()["skipped_utterances"] == 1
    assert monitor.churn["train"].last is None and monitor.probe.resumed_lengths is None


def test_a_probe_of_other_validation_data_is_not_compared(tmp_path):
    """Otherwise labels of different speech would be compared, or of different numbers of frames."""
    options = {"log_every_n_steps": 1, "val_check_interval": 1000}
    trainer = train(make_model(birq__watch__probe_seconds=1.0), tmp_path, steps=1, **options)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    other, ckpt = make_model(birq__watch__probe_seconds=1.0), tmp_path / "kept.ckpt"
    trainer = train(other, tmp_path, steps=2, ckpt_path=ckpt, change=lambda batch: make_batch((0.4, 0.5)), **options)
    assert "train_enhanced_churn" not in trainer.callback_metrics and other.monitor.probe.lengths == [6400, 8000, 1600]


def test_gradients_that_are_not_finite_or_cancel_are_numbers():
    names = "anchor", "enhanced_prediction", "enhanced_label"
    table = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, -1.0 - 1e-12], [0.0, -1.0 - 1e-12, 1.0]], dtype=torch.float64)
    metrics = GradientProducts(names, table).metrics()
    assert metrics["gradient_norm_enhanced"] == 0 and metrics["gradient_norm_anchor"] == 1  # not a complex number
    metrics = GradientProducts(names, table * math.nan).metrics()
    assert math.isnan(metrics["gradient_norm_enhanced"]) and math.isnan(metrics["gradient_norm_anchor"])
