"""Measures the cost of monitoring: training steps with and without it, interleaved in one run of a real trainer on the CPU.

    python benchmarks/health.py                # minutes; writes docs/results/health_cost.json

Four kinds of steps alternate: without monitoring, with the work of every step (sums on the device), a logged step (sums
read, labels of the probe computed again, alarms, logger), and one that compares gradients. Their medians give the share of
the training time at the default intervals of configuration and trainer. The work of every step is too little for a
difference of step times, so the result uses its time from inside. The benchmark measures processor time, which other
programs affect less than wall time; with one thread (OMP_NUM_THREADS=1) both are equal.
"""

import argparse
import json
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path

import lightning.pytorch as pl
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table

from nemo_birq import BiRQModel
from nemo_birq.config import WatchConfig
from nemo_birq.data.batch import SpeechBatch

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("none", "every step", "logged", "gradients")
NEVER = 10**9
MIDDLE = [
    "model.encoder.n_layers=8", "model.encoder.d_model=256", "model.encoder.n_heads=4",
    "model.encoder.subsampling_conv_channels=64", "model.birq.quantizer.num_codes=8192",
]  # fmt: skip
# Overrides of birq_conformer_tiny, and seconds of audio a batch.
MODELS = {
    "4 x 128, before enhanced labels count": ([f"enhanced_start_step={NEVER}"], 30),
    "4 x 128": (["enhanced_start_step=0"], 30),
    "4 x 128, gradient through the labels": (["enhanced_start_step=0", "objective=paper"], 30),
    "8 x 256, 8192 codes": (["enhanced_start_step=0", *MIDDLE], 30),
}


class OneBatch(torch.utils.data.IterableDataset):
    """Yields the same noise endlessly, in utterances of 5 seconds."""

    def __init__(self, seconds: int):
        signal = 0.1 * torch.randn(seconds // 5, 5 * 16000, generator=torch.Generator().manual_seed(0))
        self.batch = SpeechBatch(signal, torch.full((len(signal),), signal.shape[1]), ["noise"] * len(signal))

    def __iter__(self):
        while True:
            yield self.batch


class Alternate(pl.Callback):
    """Alternates the kinds of steps, in a new random order for each round, and measures the processor time of each step."""

    def __init__(self, rounds: int):
        order = random.Random(0)
        self.kinds = [kind for _ in range(rounds + 1) for kind in order.sample(KINDS, len(KINDS))]
        self.began: list[float] = []
        self.inside: list[float] = []

    def on_train_start(self, trainer, pl_module):
        log = pl_module.monitor.training_log
        calls = (log.health, "update"), (log, "count"), (pl_module.monitor.finite, "remember")
        self.every_step = [(owner, name, getattr(owner, name)) for owner, name in calls]

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.began.append(time.process_time())
        kind = self.kinds[min(batch_idx, len(self.kinds) - 1)]
        trainer.log_every_n_steps = 1 if kind == "logged" else NEVER
        pl_module.birq.watch.gradient_interval = 1 if kind == "gradients" else 0
        self.inside.append(0.0)
        for owner, name, real in self.every_step:
            object.__setattr__(owner, name, (lambda *_, **__: None) if kind == "none" else self.timed(real))

    def timed(self, call):
        """Wraps a call so that its time is added to that of the step."""

        def measured(*args, **kwargs):
            began = time.process_time()
            call(*args, **kwargs)
            self.inside[-1] += time.process_time() - began

        return measured

    def medians(self) -> dict[str, float]:
        """Returns the median seconds of a step of each kind, without the first round."""
        seconds = [after - before for before, after in zip(self.began, self.began[1:], strict=False)]
        timed = list(zip(self.kinds, seconds, strict=False))[len(KINDS) :]
        inside = [t for kind, t in list(zip(self.kinds, self.inside, strict=False))[len(KINDS) :] if kind != "none"]
        return {kind: statistics.median(s for k, s in timed if k == kind) for kind in KINDS} | {
            "every step, inside": statistics.median(inside)
        }


def time_steps(overrides: list[str], seconds: int, rounds: int) -> dict[str, float]:
    """Returns the medians of the kinds of steps of a model."""
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose("birq_conformer_tiny", overrides=["model.train_ds=null", "model.validation_ds=null", *overrides])
    data = OneBatch(seconds)
    alternate = Alternate(rounds)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=len(alternate.kinds) + 1, logger=TensorBoardLogger(folder), callbacks=[alternate],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            gradient_clip_val=cfg.trainer.gradient_clip_val,
        )  # fmt: skip
        model = BiRQModel(cfg.model, trainer=trainer)
        model.monitor.probe.fill(OneBatch(int(cfg.model.birq.watch.probe_seconds)).batch)
        trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=None))
    return alternate.medians()


def cost(seconds: dict[str, float], log_interval: int, gradient_interval: int) -> float:
    """Returns the share of monitoring in the training time at these intervals."""
    extra = seconds["every step, inside"]
    extra += (seconds["logged"] - seconds["every step"]) / log_interval
    extra += (seconds["gradients"] - seconds["every step"]) / gradient_interval
    return extra / seconds["none"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="steps of each kind (default 15)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/health_cost.json")
    args = parser.parse_args()
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        log_interval = compose("base").trainer.log_every_n_steps
    gradient_interval = WatchConfig().gradient_interval
    table = Table(title=f"Seconds a step (medians of {args.rounds}), one batch again and again", title_justify="left")
    for column in ("model", *KINDS, "inside", "cost"):
        table.add_column(column, justify="left" if column == "model" else "right")
    results = {}
    for name, (overrides, seconds) in MODELS.items():
        medians = time_steps(overrides, seconds, args.rounds)
        share = cost(medians, log_interval, gradient_interval)
        results[name] = {"seconds_of_audio": seconds, "seconds_a_step": medians, "cost": share}
        table.add_row(name, *(f"{medians[kind]:.4f}" for kind in medians), f"{share:.2%}")
    Console(width=120).print(table)
    about = {
        "command": "python benchmarks/health.py",
        "device": f"CPU, {torch.get_num_threads()} thread(s), {platform.machine()}, torch {torch.__version__}",
        "rounds": args.rounds,
        "log_interval": log_interval,
        "gradient_interval": gradient_interval,
        "models": results,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
