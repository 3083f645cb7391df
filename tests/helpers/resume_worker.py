"""Worker of tests/integration/test_resuming.py.

Trains the tiny configuration, keeps the names of the utterances of each step, and may be killed.

tests.helpers.resume_worker FOLDER [--kill-after STEPS] [--workers N]
"""

import argparse
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch
from hydra import compose, initialize_config_dir

from nemo_birq import BiRQModel
from nemo_birq.runs.resuming import prepare_resuming
from tests.helpers.paths import CORPUS, ROOT

STEPS = 24
SAVE_EVERY = 5
OVERRIDES = [
    f"model.train_ds.manifest_filepath={CORPUS}/validation/validation.json",
    f"model.validation_ds.manifest_filepath={CORPUS}/validation/validation.json",
    "model.train_ds.batch_duration=10",
    "model.encoder.n_layers=2",
    "model.encoder.d_model=32",
    "model.encoder.subsampling_conv_channels=8",
    "model.encoder.dropout=0.1",  # random numbers of the step itself
    "model.birq.quantizer.num_codes=64",
    "enhanced_start_step=3",
    "enhanced_ramp_steps=8",
]


class Diary(pl.Callback):
    """Records the utterances of each step; kills the process in the middle of a step on request."""

    def __init__(self, path: Path, kill_after: int | None):
        self.path, self.kill_after = path, kill_after

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        with open(self.path, "a") as file:
            file.write(json.dumps([trainer.global_step, batch.ids]) + "\n")
        if trainer.global_step == self.kill_after:
            self.kill()

    def kill(self):
        os.kill(os.getpid(), signal.SIGKILL)


def train(
    folder: Path, kill_after: int | None = None, workers: int = 0, save_every: int = SAVE_EVERY,
    overrides: Sequence[str] = (), **options,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Returns the weights after the last step; resumes from the newest checkpoint of the folder, if there is one."""
    folder.mkdir(exist_ok=True)
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose("birq_conformer_tiny", [*OVERRIDES, f"model.train_ds.num_workers={workers}", *overrides])
    pl.seed_everything(1)
    saving = pl.callbacks.ModelCheckpoint(folder, filename="{step}", every_n_train_steps=save_every, save_top_k=-1)
    options = {"max_steps": STEPS, "val_check_interval": 7, "check_val_every_n_epoch": None} | options
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        limit_val_batches=1, callbacks=[Diary(folder / "seen.jsonl", kill_after), saving], inference_mode=False,
        use_distributed_sampler=False, **options,
    )  # fmt: skip
    model = BiRQModel(cfg=cfg.model, trainer=trainer)
    checkpoints = sorted(folder.glob("*.ckpt"), key=lambda path: int(path.stem.split("=")[1]))
    trainer.ckpt_path = str(checkpoints[-1]) if checkpoints else None
    prepare_resuming(model, trainer, cfg.resume_with_changed)
    trainer.fit(model)
    return model.state_dict()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill-after", type=int)
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    train(args.folder, args.kill_after, args.workers)
