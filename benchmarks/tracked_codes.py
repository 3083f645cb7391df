"""Codes that follow the frames, step by step: loss, replaced codes and perplexity of a short training on real speech.

    python -m benchmarks.tracked_codes pretrain.jsonl --codes 8192 --steps 250 --out docs/results/tracked_codes.json
    torchrun --nproc-per-node 2 -m benchmarks.tracked_codes pretrain.jsonl ...

MANIFEST names single files at 16 kHz. The training is a plain loop with AdamW: tracked codes and w1 = 1 from the first step.
The batches of all ranks together have the given length. The enhanced loss of one fixed batch is computed twice in each step,
when the codes have moved and when the weights have, and always with the same masks, because the losses of the training's
batches differ by their speech. Results are added to the json file.
"""

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import soundfile
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch.distributed import init_process_group

from nemo_birq import BiRQModel
from nemo_birq.checkpoint import artifacts
from nemo_birq.data.batch import SpeechBatch
from nemo_birq.labels.statistics import entropy, histogram
from nemo_birq.losses.bilevel import Weights
from nemo_birq.utils.distributed import gather_over_ranks, rank, sum_over_ranks, world_size
from nemo_birq.utils.files import write_json
from nemo_birq.utils.terminal import Terminal

ROOT = Path(__file__).parents[1]
LR, WARMUP, SETTLED = 1e-3, 50, 50
"""Learning rate, steps of its warm-up, and the step from which bursts count."""
console = Terminal()


def configuration(num_codes: int, momentum: float) -> DictConfig:
    """Returns the tiny configuration with 2 layers of 64 and tracked codes."""
    overrides = [
        "objective=tracked", f"model.birq.quantizer.num_codes={num_codes}", "model.encoder.n_layers=2",
        "model.encoder.d_model=64", "model.birq.labels.layer=1", f"model.birq.labels.codebook_momentum={momentum}",
    ]  # fmt: skip
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose("birq_conformer_tiny", overrides=overrides)
    cfg.model.train_ds = cfg.model.validation_ds = None
    return cfg.model


def batches(manifest: Path, seconds: float) -> Iterator[SpeechBatch]:
    """Yields this rank's batches in random order, without end; those of all ranks together have the given length."""
    lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()][rank() :: world_size()]
    rng, chosen = np.random.default_rng(0), []
    while True:
        for number in rng.permutation(len(lines)):
            chosen.append(lines[number])
            if sum(line["duration"] for line in chosen) >= seconds / world_size():
                yield _load(manifest.parent, [line["audio_filepath"] for line in chosen])
                chosen = []


def _load(folder: Path, names: list[str]) -> SpeechBatch:
    signals = [torch.from_numpy(soundfile.read(folder / name, dtype="float32")[0]) for name in names]
    lengths = torch.tensor([len(signal) for signal in signals])
    return SpeechBatch(torch.nn.utils.rnn.pad_sequence(signals, batch_first=True), lengths, names)


def enhanced_loss(model: BiRQModel, probe: BiRQModel, batch: SpeechBatch) -> float:
    """Returns the mean enhanced loss of the masked frames in nats, with masks and dropout that never change.

    ``probe``, which becomes a copy of the model, computes it in training mode, because the running averages of evaluation
    mode move with every batch.
    """
    probe.load_state_dict(model.state_dict())
    artifacts.restore_labels(probe, artifacts.labels_of(model))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        found = probe.losses(batch, Weights(1.0, 1.0), torch.Generator().manual_seed(0), False, False).health["found"]
    enhanced, frames = sum_over_ranks(found.enhanced, torch.tensor(len(found.nearest)))
    return float(enhanced / frames)


@click.command(help=__doc__)
@click.argument("manifest", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--codes", "num_codes", type=int, default=8192, show_default=True, help="V.")
@click.option("--momentum", type=float, default=0.99, show_default=True, help="labels.codebook_momentum.")
@click.option("--steps", type=int, default=250, show_default=True)
@click.option("--batch-seconds", type=float, default=40.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for the numbers.")
def main(manifest: Path, num_codes: int, momentum: float, steps: int, batch_seconds: float, out: Path | None) -> None:
    if "RANK" in os.environ:
        init_process_group("gloo")
    torch.manual_seed(0)
    model, probe = (BiRQModel(configuration(num_codes, momentum)).train() for _ in range(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=1e-3)
    losses, moved_codes, moved_weights, replaced, picked, start = [], [], [], [], [], time.perf_counter()
    drawn = batches(manifest, batch_seconds)
    fixed = next(drawn)
    for step, batch in zip(range(steps), drawn, strict=False):
        optimizer.param_groups[0]["lr"] = LR * min(1, (step + 1) / WARMUP)
        found = model.losses(batch, Weights(1.0, 1.0), torch.Generator().manual_seed(step), False, False)
        moved_codes.append(enhanced_loss(model, probe, fixed))
        optimizer.zero_grad()
        found.loss.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        for gradient, summed in zip(gradients, sum_over_ranks(*gradients), strict=True):
            gradient.copy_(summed / world_size())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        health = found.health["found"]
        enhanced, frames = sum_over_ranks(health.enhanced, torch.tensor(len(health.nearest)))
        losses.append(float(enhanced / frames))
        moved_weights.append(enhanced_loss(model, probe, fixed))
        replaced.append(model.enhanced_labeler.tracking.take_replaced())
        picked += gather_over_ranks(health.picked)
        if (step + 1) % 50 == 0 and rank() == 0:
            console.print(f"step {step + 1}: enhanced loss {np.mean(losses[-50:]):.2f}, {time.perf_counter() - start:.0f} s")
    if rank() > 0:
        return
    rises, fixed_rises = np.diff(losses)[SETTLED - 1 :], np.diff(moved_weights)[SETTLED - 1 :]
    by_codes = np.subtract(moved_codes[SETTLED:], moved_weights[SETTLED - 1 : -1])
    top = int(fixed_rises.argmax())
    counts = histogram(torch.cat(picked[max(0, steps - 60) * world_size() : (steps - 50) * world_size()]), num_codes)
    row = {
        "codes": num_codes, "momentum": momentum, "steps": steps, "batch_seconds": batch_seconds, "ranks": world_size(),
        "largest_share_replaced_from_step_50": round(max(replaced[SETTLED:]), 4),
        "largest_rise_from_step_50": round(float(rises.max()), 3),
        "largest_rise_of_the_fixed_batch_from_step_50": round(float(fixed_rises[top]), 3),
        "step_of_that_rise": SETTLED + top,
        "share_of_it_by_the_codes": round(float(by_codes[top] / fixed_rises[top]), 3),
        "share_replaced_in_that_step": round(replaced[SETTLED + top], 4),
        "largest_rise_of_the_fixed_batch_by_the_codes": round(float(by_codes.max()), 3),
        "fixed_batch_of_the_last_50": round(float(np.mean(moved_weights[-50:])), 3),
        "deviation_of_differences": round(float(rises.std()), 3),
        "perplexity_of_ten_steps_before_the_last_50": round(math.exp(float(entropy(counts).mean())), 1),
        "enhanced_loss_of_the_last_50": round(float(np.mean(losses[-50:])), 3),
    }  # fmt: skip
    console.print(row)
    if out is not None:
        rows = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.is_file() else []
        same = ("codes", "momentum", "steps", "batch_seconds", "ranks")
        rows = [other for other in rows if any(other[key] != row[key] for key in same)]
        write_json(
            out, {"command": "python -m benchmarks.tracked_codes, or torchrun for several ranks", "rows": [*rows, row]}
        )


if __name__ == "__main__":
    main()
