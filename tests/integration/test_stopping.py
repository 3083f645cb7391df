"""Signals to a training that runs, and checkpoints by time."""

import json
import os
import signal
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from hydra import compose, initialize_config_dir
from nemo.utils.trainer_utils import resolve_trainer_cfg

from nemo_birq import BiRQModel
from nemo_birq.pretraining.result import complete_result
from nemo_birq.runs.experiment import experiment
from tests.helpers.paths import ROOT
from tests.helpers.resume_worker import OVERRIDES

pytestmark = pytest.mark.integration


class Send(pl.Callback):
    """Sends the process a signal in a step, or in the validation after it."""

    def __init__(self, number: int, step: int, in_validation: bool = False):
        self.number, self.step, self.in_validation = number, step, in_validation
        self.validated: list[int] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if not self.in_validation and trainer.global_step + 1 == self.step:
            os.kill(os.getpid(), self.number)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if self.in_validation and not trainer.sanity_checking and trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.validated.append(trainer.global_step)


def train(folder: Path, send: Send | None = None, *overrides: str) -> dict[str, torch.Tensor]:
    """Returns the weights after 9 steps; validates after 4 and 8."""
    changes = [
        *OVERRIDES, "name=run", f"exp_manager.exp_dir={folder}", "trainer.max_steps=9", "trainer.val_check_interval=4",
        "+trainer.limit_val_batches=2", "model.validation_ds.batch_duration=8", "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false", "+trainer.enable_model_summary=false",
        "exp_manager.create_tensorboard_logger=false", *overrides,
    ]  # fmt: skip
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose("birq_conformer_tiny", overrides=changes)
    pl.seed_everything(1)
    trainer = pl.Trainer(**resolve_trainer_cfg(cfg.trainer), callbacks=[send] if send else [])
    with experiment(trainer, cfg.exp_manager, cfg.checkpoint_minutes):
        model = BiRQModel(cfg=cfg.model, trainer=trainer)
        trainer.fit(model)
        complete_result(model, trainer)
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Weights of an uninterrupted run."""
    return train(tmp_path_factory.mktemp("whole"))


def steps_saved(folder: Path) -> list[int]:
    files = (folder / "run" / "checkpoints").glob("*-last.ckpt")
    return [torch.load(path, weights_only=True)["global_step"] for path in files]


@pytest.mark.parametrize(
    ("number", "code", "step", "in_validation"),
    [(signal.SIGTERM, 143, 6, False), (signal.SIGINT, 130, 4, True), (signal.SIGHUP, 129, 9, False)],
)
def test_signal_loses_no_finished_step(tmp_path, whole, number, code, step, in_validation):
    """The signal comes in a step, in a validation, or in the last step, after which the result is still written."""
    with pytest.raises(SystemExit) as end:
        train(tmp_path, Send(number, step, in_validation))
    assert end.value.code == code
    assert steps_saved(tmp_path) == [step]
    ended = "interrupted" if step < 9 else "too short to judge"
    assert json.loads((tmp_path / "run" / "alarms.json").read_text())["status"] == ended
    assert (tmp_path / "run" / "checkpoints" / "run.nemo").is_file() == (step == 9)

    again = Send(signal.SIGTERM, -1)
    weights = train(tmp_path, again)
    assert all(torch.equal(weights[name], value) for name, value in whole.items())
    assert again.validated == {6: [8], 4: [4, 8], 9: []}[step]
    assert (tmp_path / "run" / "checkpoints" / "run.nemo").is_file()


def test_checkpoints_by_time(tmp_path):
    """A run that is killed before the first validation resumes from its last checkpoint by time."""

    class Kill(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 3:
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path, Kill(), "checkpoint_minutes=0")
    assert steps_saved(tmp_path) == [3]
