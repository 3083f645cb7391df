"""Measures the time from the command to the end of the first training step, compared with stock NeMo's own pretraining.

    python benchmarks/startup.py             # five minutes on two cores; writes docs/results/startup.json

Each start is a separate process, with the kinds in turn: the same tiny model, corpus, trainer and exp_manager, once with our
model and loader, once with NeMo's EncDecMaskedTokenPredModel and Lhotse loader. The first round fills caches and is reported
separately. ``num_sanity_val_steps`` is 1 in our configurations (to find a broken validation set before training) and 0 in
NeMo's, so ours is started with both. The results are wall time and processor time of all threads, which other programs
affect less.
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if "--kind" not in sys.argv:  # a timed start imports nothing before, and NeMo's start imports nothing of ours
    from omegaconf import OmegaConf
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table
    from step import machine
    from step_comparison import ratio, spread
    from step_variants import Setting, stock_config

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("stock", "ours, no sanity check", "ours")
STAGES = ("imports", "trainer, experiment, model", "data and first step")
CORPUS = ROOT / "tarred_manifests"
DATA = {
    "model.train_ds.manifest_filepath": CORPUS / "train" / "sharded_manifests" / "manifest__OP_0..3_CL_.json",
    "model.train_ds.tarred_audio_filepaths": CORPUS / "train" / "audio__OP_0..3_CL_.tar",
    "model.validation_ds.manifest_filepath": CORPUS / "validation" / "validation.json",
}


def start(kind: str, began: float, folder: str) -> None:
    """Trains one step in a new process and prints the end of each stage in seconds since ``began``, and processor time.

    It does not return.
    """
    import lightning.pytorch as pl
    from hydra import compose, initialize_config_dir
    from nemo.collections.asr.models import EncDecMaskedTokenPredModel
    from nemo.utils.exp_manager import exp_manager
    from nemo.utils.trainer_utils import resolve_trainer_cfg
    from omegaconf import OmegaConf, open_dict

    if kind != "stock":
        from nemo_birq import BiRQModel
    ended = [(time.time() - began, time.process_time())]

    class Stop(pl.Callback):
        def on_train_batch_end(self, *_) -> None:
            ended.append((time.time() - began, time.process_time()))
            print("ENDED", json.dumps(ended), flush=True)
            os._exit(0)  # the end of a run is not measured

    sanity = int(kind == "ours")
    overrides = [f"{key}='{value}'" for key, value in DATA.items()]
    overrides += [f"trainer.num_sanity_val_steps={sanity}", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu"]
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = compose("birq_conformer_tiny", overrides=overrides)
    with open_dict(config):
        config.exp_manager.exp_dir = folder
        if kind == "stock":
            config.trainer.limit_train_batches = 100  # NeMo's Lhotse loader has no length
    pl.seed_everything(config.seed, workers=True)
    trainer = pl.Trainer(**resolve_trainer_cfg(config.trainer))
    exp_manager(trainer, config.exp_manager)
    trainer.callbacks.append(Stop())
    if kind == "stock":
        ours = OmegaConf.create(OmegaConf.to_container(config.model, resolve=True))
        stock = OmegaConf.load(Path(folder) / "stock.yaml")
        loader = {"sample_rate": 16000, "shard_seed": 0, "concurrent_bucketing": False}
        stock.train_ds = OmegaConf.merge(ours.train_ds, loader)
        stock.validation_ds = OmegaConf.merge(ours.validation_ds, loader)
        model = EncDecMaskedTokenPredModel(stock, trainer=trainer)
    else:
        model = BiRQModel(config.model, trainer=trainer)
    ended.append((time.time() - began, time.process_time()))
    trainer.fit(model)


def seconds_of_stages(kind: str) -> dict[str, list[float]]:
    """Returns the seconds of each stage of one start, in the order of STAGES, by ``clock`` and ``processor``."""
    setting = Setting("birq_conformer_tiny")
    with tempfile.TemporaryDirectory() as folder:
        OmegaConf.save(stock_config(setting.model_config(), setting), Path(folder) / "stock.yaml")
        command = [sys.executable, __file__, "--kind", kind, "--folder", folder, "--began", repr(time.time())]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    lines = [line for line in done.stdout.splitlines() if line.startswith("ENDED ")]
    if not lines:
        raise RuntimeError(f"{kind}: no step was made\n{done.stderr[-3000:]}")
    ends = [(0.0, 0.0), *json.loads(lines[0].removeprefix("ENDED "))]
    clock, processor = zip(*ends, strict=True)
    return {name: [after - before for before, after in itertools.pairwise(times)]
            for name, times in (("clock", clock), ("processor", processor))}  # fmt: skip


def summary(starts: list[list[float]], stock: list[list[float]]) -> dict:
    """Returns medians over starts without the first one, and the ratio to those of stock NeMo."""
    totals, of_stock = ([sum(stages) for stages in kind[1:]] for kind in (starts, stock))
    return {
        "seconds": spread(totals)._asdict(),
        "ratio_to_stock": ratio(totals, of_stock),
        "stages": {stage: spread([s[number] for s in starts[1:]]).median for number, stage in enumerate(STAGES)},
        "first_start": sum(starts[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="starts of each kind, after a first one (default 5)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "startup.json")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.kind:
        start(args.kind, args.began, args.folder)
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: at least 1")

    order, found = random.Random(0), {kind: [] for kind in KINDS}
    with Progress(transient=True) as progress:
        task = progress.add_task("starting", total=len(KINDS) * (args.rounds + 1))
        for _ in range(args.rounds + 1):
            for kind in order.sample(KINDS, len(KINDS)):
                found[kind].append(seconds_of_stages(kind))
                progress.advance(task)
    times = ("clock", "processor")
    kinds = {
        kind: {of: summary([start[of] for start in starts], [start[of] for start in found["stock"]]) for of in times}
        for kind, starts in found.items()
    }
    result = {"machine": machine(Setting("birq_conformer_tiny")), "rounds": args.rounds, "kinds": kinds}
    for of in times:
        table = Table(title=f"Seconds ({of}) from the command to the end of the first step, medians", title_justify="left")
        for column in ("", *STAGES, "in all", "to stock", "95 %"):
            table.add_column(column, justify="right" if column else "left")
        for kind, row in kinds.items():
            middle, low, high = row[of]["ratio_to_stock"]
            stages = [f"{value:.1f}" for value in row[of]["stages"].values()]
            total = f"{row[of]['seconds']['median']:.1f}"
            table.add_row(kind, *stages, total, f"{middle:.2f}", f"{low:.2f} - {high:.2f}")
        Console(width=140).print(table)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(args.out)


if __name__ == "__main__":
    main()
