"""Compares the step time of scripts/speech_to_text_finetune.py with a bare loop over the same stock NeMo class.

    python benchmarks/finetune_step.py model.nemo --out docs/results/finetune_step.json

Both train the same EncDecCTCModel on the same batches. The script's trainer has exp_manager with TensorBoard and
checkpoints, the callback that freezes the encoder, and two parameter groups. The bare loop is `Trainer.fit` without
callbacks and logger, with one learning rate. Blocks of steps of the two alternate. The benchmark measures processor time,
which other programs hardly change.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
from hydra import compose, initialize_config_dir
from nemo.utils.exp_manager import exp_manager

from nemo_birq.finetuning.preparation import prepare
from nemo_birq.finetuning.training import build_recognizer, build_trainer

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "tarred_manifests"


class Clock(pl.Callback):
    """Measures processor seconds from the end of one step to the end of the next: data, step, hooks and logging."""

    def __init__(self):
        self.seconds: list[float] = []
        self.last = None

    def on_train_batch_end(self, *_) -> None:
        now = time.process_time()
        if self.last is not None:
            self.seconds.append(now - self.last)
        self.last = now


def run(nemo: Path, folder: Path, steps: int, ours: bool) -> list[float]:
    """Returns the seconds of each step after the first one of a block."""
    with initialize_config_dir(str(ROOT / "conf" / "finetune"), version_base=None):
        cfg = compose("ctc_char", [
            f"init_from_nemo_model={nemo}", f"exp_manager.exp_dir={folder}", f"trainer.max_steps={steps}",
            f"model.train_ds.manifest_filepath={CORPUS}/validation/validation.json",
            f"model.validation_ds.manifest_filepath={CORPUS}/test/test.json", "model.train_ds.num_workers=0",
            "model.validation_ds.num_workers=0", "model.train_ds.batch_duration=15", "model.train_ds.num_buckets=2",
            "trainer.precision=32", "trainer.enable_progress_bar=false", "+trainer.limit_val_batches=0",
            "trainer.num_sanity_val_steps=0", "freeze_encoder=1", "+trainer.enable_model_summary=false",
            *([] if ours else ["~model.optim_param_groups"]),
        ])  # fmt: skip
    path, _ = prepare(cfg)
    trainer, num_steps = build_trainer(cfg)
    clock = Clock()
    if ours:
        exp_manager(trainer, cfg.exp_manager)
        trainer.callbacks.append(clock)
        model = build_recognizer(cfg, trainer, num_steps, path)
    else:
        trainer = pl.Trainer(
            max_steps=steps, callbacks=[clock], logger=False, enable_checkpointing=False, limit_val_batches=0,
            enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, gradient_clip_val=1.0,
            accelerator=cfg.trainer.accelerator,
        )  # fmt: skip
        cfg.freeze_encoder = 0
        model = build_recognizer(cfg, trainer, num_steps, path)
    trainer.fit(model)
    return clock.seconds[1:]  # the encoder is frozen in the first step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nemo", type=Path, help=".nemo of a pretrained model")
    parser.add_argument("--blocks", type=int, default=4, help="number of blocks of each (default 4)")
    parser.add_argument("--steps", type=int, default=24, help="number of steps in a block (default 24)")
    parser.add_argument("--out", type=Path, help="json file for the result")
    args = parser.parse_args()
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(2 * args.blocks):
            name = ("ours", "bare")[number % 2]
            times[name] += run(args.nemo.resolve(), Path(folder) / str(number), args.steps, name == "ours")
    result = {
        "what": "processor seconds of a training step, 15 s of audio; ours: the script, bare: Trainer.fit of the same class",
        "steps": {name: len(values) for name, values in times.items()},
        "median": {name: round(float(np.median(values)), 4) for name, values in times.items()},
        "quartiles": {name: np.round(np.percentile(values, [25, 75]), 4).tolist() for name, values in times.items()},
        "ratio_of_medians": round(float(np.median(times["ours"]) / np.median(times["bare"])), 3),
        "command": f"python benchmarks/finetune_step.py model.nemo --blocks {args.blocks} --steps {args.steps}",
    }
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
