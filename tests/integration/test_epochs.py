"""A training whose length is given in epochs, with the shipped configurations: trainer.max_steps=-1 trainer.max_epochs=2."""

import copy

import lightning.pytorch as pl
import pytest
import torch
from click.testing import CliRunner
from omegaconf import OmegaConf

from nemo_birq import cli
from nemo_birq.data.trainer_hooks import with_schedule_length
from nemo_birq.runs.experiment import run_exp_manager
from tests.helpers.paths import CORPUS
from tests.helpers.scripts import SMALL

pytestmark = pytest.mark.integration
DATA = [f"model.{name}_ds.manifest_filepath={CORPUS}/{folder}/{folder}.json"
        for name, folder in (("train", "validation"), ("validation", "test"))]  # fmt: skip


def test_epochs_end_the_training_with_a_validation_and_a_schedule_of_their_length(tmp_path):
    """The interval of validations is longer than both epochs; a limit of steps beyond them changes nothing."""
    done = CliRunner().invoke(
        cli.main,
        ["pretrain", "--config-name=birq_conformer_tiny", *DATA, *SMALL, f"exp_manager.exp_dir={tmp_path}",
         "trainer.max_steps=100000", "trainer.max_epochs=2", "trainer.val_check_interval=1000",
         "trainer.num_sanity_val_steps=0", "model.train_ds.batch_duration=60"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output[-3000:]
    (last,) = tmp_path.rglob("*-last.ckpt")
    checkpoint = torch.load(last, weights_only=False)
    steps, schedule = checkpoint["global_step"], checkpoint["lr_schedulers"][0]
    assert steps > 2 and steps % 2 == 0 and schedule["max_steps"] == schedule["last_epoch"] == steps
    assert len(list(tmp_path.rglob(f"small--val_loss=*-step={steps}.ckpt"))) == 1  # there is none without a validation
    assert len(list(tmp_path.rglob("small.nemo"))) == 1


@pytest.mark.parametrize(
    ("limits", "steps", "left"),
    [
        ({"max_epochs": 2}, 12, -1),
        ({"max_epochs": 2, "max_steps": 100}, 12, -1),
        ({"max_epochs": 2, "max_steps": 12}, None, 12),
        ({"max_epochs": 2, "max_steps": 7}, None, 7),
        ({"max_epochs": -1, "max_steps": 7}, None, 7),
    ],
)
def test_the_schedule_is_as_long_as_the_limit_that_comes_first(limits, steps, left):
    optim = OmegaConf.create({"name": "adamw", "sched": {"name": "CosineAnnealing"}})
    trainer = pl.Trainer(accelerator="cpu", logger=False, accumulate_grad_batches=2, **limits)
    assert with_schedule_length(copy.deepcopy(optim), trainer, range(11)).sched.get("max_steps") == steps
    assert trainer.max_steps == left  # NeMo takes the length from it where it is above 0


@pytest.mark.parametrize("every", [None, 1])
def test_the_folder_of_a_run_is_made_whatever_counts_its_validations(tmp_path, every):
    options = {"logger": False, "enable_checkpointing": False, "val_check_interval": 5, "check_val_every_n_epoch": every}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, **options)
    cfg = OmegaConf.create({"exp_dir": str(tmp_path), "name": "run", "resume_if_exists": True,
                            "resume_ignore_no_checkpoint": True, "create_tensorboard_logger": False})  # fmt: skip
    assert run_exp_manager(trainer, cfg) == tmp_path / "run" and trainer.check_val_every_n_epoch == every
