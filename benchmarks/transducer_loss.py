"""Times the loss of transducers on a CPU, forward and backward: NeMo's and the one that fine-tuning uses there.

    python -m benchmarks.transducer_loss --out docs/results/transducer_loss.json

The logits are random, of 30 s of audio: 10 utterances of 75 encoder frames (40 ms) and 26 symbols of a vocabulary of 96. The
benchmark measures processor time on one thread, which other programs hardly change, and the largest difference between the
two gradients.
"""

import time
from pathlib import Path

import click
import numpy as np
import torch
from nemo.collections.asr.losses.rnnt import RNNTLoss
from rich.table import Table

from nemo_birq.losses.transducer import CpuTransducerLoss
from nemo_birq.utils.files import write_json
from nemo_birq.utils.terminal import Terminal

UTTERANCES, FRAMES, SYMBOLS, VOCABULARY = 10, 75, 26, 96
console = Terminal()


def measure(loss: RNNTLoss, rounds: int) -> tuple[list[float], torch.Tensor]:
    """Returns the seconds of each round after the first one, and the gradient of the logits."""
    made = torch.Generator().manual_seed(0)
    logits = torch.randn(UTTERANCES, FRAMES, SYMBOLS + 1, VOCABULARY + 1, generator=made, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (UTTERANCES, SYMBOLS), generator=made)
    lengths = {"input_lengths": torch.full((UTTERANCES,), FRAMES), "target_lengths": torch.full((UTTERANCES,), SYMBOLS)}
    seconds = []
    for _ in range(1 + rounds):
        logits.grad = None
        began = time.process_time()
        loss(log_probs=logits, targets=targets, **lengths).backward()
        seconds.append(time.process_time() - began)
    return seconds[1:], logits.grad


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(min=2), default=10, show_default=True, help="Rounds after one of warm-up.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON file for the numbers.")
def main(rounds: int, out: Path) -> None:
    torch.set_num_threads(1)
    times, gradients = {}, []
    for name, loss in (("NeMo", RNNTLoss(VOCABULARY)), ("CpuTransducerLoss", CpuTransducerLoss(VOCABULARY))):
        seconds, gradient = measure(loss, rounds)
        gradients.append(gradient)
        times[name] = {"median": float(np.median(seconds)), "least": min(seconds), "most": max(seconds)}
    difference = float((gradients[0] - gradients[1]).abs().max() / gradients[0].abs().max())
    write_json(out, {
        "command": "python -m benchmarks.transducer_loss", "rounds": rounds, "utterances": UTTERANCES, "frames": FRAMES,
        "symbols": SYMBOLS, "vocabulary": VOCABULARY, "processor_seconds": times, "relative_gradient_difference": difference,
    })  # fmt: skip
    table = Table(title="Seconds of the loss and its gradient", title_justify="left")
    for column in ("", "median", "least", "most"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in times.items():
        table.add_row(name, *(f"{value:.3f}" for value in row.values()))
    console.print(table)
    console.print(f"Largest difference of the gradients, relative to the largest gradient: {difference:.1e}")


if __name__ == "__main__":
    main()
