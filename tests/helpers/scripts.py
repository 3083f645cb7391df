"""Runs the scripts like a user, in a separate process, with a small model on the embedded corpus."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.helpers.forked import run_forked
from tests.helpers.paths import CORPUS, ROOT

SMALL = [
    "model.encoder.n_layers=2",
    "model.encoder.d_model=32",
    "model.encoder.subsampling_conv_channels=8",
    "model.birq.quantizer.num_codes=64",
    "enhanced_start_step=2",
    "enhanced_ramp_steps=2",
    "model.train_ds.batch_duration=20",
    "model.train_ds.bucket_buffer_size=40",
    "model.train_ds.shuffle_buffer_size=40",
    "trainer.log_every_n_steps=4",
    "trainer.enable_progress_bar=false",
    "name=small",
]
DATA = [
    f"model.train_ds.manifest_filepath={CORPUS}/train/sharded_manifests/manifest__OP_0..3_CL_.json",
    f"model.train_ds.tarred_audio_filepaths={CORPUS}/train/audio__OP_0..3_CL_.tar",
    f"model.validation_ds.manifest_filepath={CORPUS}/validation/validation.json",
]


def run(script: str, *overrides: str, fails: bool = False, fresh: bool = False) -> str:
    """Runs a script like a user and returns its output; ``fresh``: in a new process, which imports NeMo itself."""
    command = [str(ROOT / "scripts" / script), *overrides]
    if fresh:
        env = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=env, cwd=ROOT)
    else:
        done = run_forked(command, entry="tests.helpers.forked:run_file")
    printed = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, printed[-5000:]
    return printed


def pretrain(folder: Path, *overrides: str, config: str = "birq_conformer_tiny", **options) -> str:
    arguments = [*DATA, *SMALL, f"exp_manager.exp_dir={folder}", *overrides]
    return run("speech_pre_training.py", f"--config-name={config}", *arguments, **options)


def log_lines(printed: str) -> list[tuple[int, str]]:
    """Returns steps and texts of the log lines."""
    return [(int(m[1]), m[2]) for m in re.finditer(r"step (\d+) \| (anchor \d.*)", printed)]
