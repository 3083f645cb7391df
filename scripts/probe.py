"""What is in a frozen encoder? Trains a linear classifier on each of its layers and on a learned weighted sum of them.

    python scripts/probe.py model.nemo --train train.json --dev dev.json --test test.json
    python scripts/probe.py model.nemo --train train --dev dev.json --test test.json \
        --alignments train/phones.ctm dev/phones.ctm test/phones.ctm

The first reads characters with CTC, the second the phone of each frame. The data are manifests or folders of shards; the
model is a .nemo or a .ckpt of a pretraining that still runs, or the .nemo of a recognizer. The same probes on an untrained
encoder and on the log-mel features say how much of a number comes from pretraining. Writes probe_ctc_<model> or
probe_frames_<model>, .json and .png, beside the model or to --out. docs/probing.md explains the numbers.
"""

import argparse
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path

from nemo.utils import logging
from rich.console import Console
from rich.table import Table

from nemo_birq.evaluation.probing.data import NAMES, open_sets
from nemo_birq.evaluation.probing.evaluation import ProbeScore, conclusion, constant_error, evaluate
from nemo_birq.evaluation.probing.linear import Training
from nemo_birq.evaluation.probing.representations import check_memory, represent, untrained_encoder, values_per_frame
from nemo_birq.evaluation.probing.results import kind_of, write_results
from nemo_birq.evaluation.probing.tasks import CtcTask, Task
from nemo_birq.evaluation.results import check_out
from nemo_birq.extraction.command import positive
from nemo_birq.extraction.run import progress_bar
from nemo_birq.loading import load_encoder
from nemo_birq.modules.layer_pass import parse_layers
from nemo_birq.utils.progress import ProgressBars

console = Console()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help=".nemo, or .ckpt of a pretraining")
    for name in NAMES:
        parser.add_argument(f"--{name}", required=True, metavar="DATA", help="manifest, or folder of shards")
    parser.add_argument("--alignments", nargs=3, metavar=("TRAIN", "DEV", "TEST"), help="CTM files, or TextGrid folders")
    parser.add_argument("--key", default="text", help="of the manifest, with text or a list of phones (default: text)")
    parser.add_argument("--hours", type=positive, help="train on so much audio, drawn at random (default: all)")
    parser.add_argument("--layers", help="such as 4,7 (default: all)")
    parser.add_argument("--no-baselines", action="store_true", help="no untrained encoder and no log-mel features")
    parser.add_argument("--epochs", type=int, default=Training.epochs, help=f"(default {Training.epochs})")
    parser.add_argument(
        "--learning-rate", type=float, default=Training.learning_rate, help=f"(default {Training.learning_rate})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order of batches and of the untrained encoder")
    parser.add_argument("--workers", type=int, default=1, help="processes that decode audio (default 1)")
    parser.add_argument("--out", type=Path, help="folder for the results (default: that of the model)")
    return parser.parse_args()


def table(rows: list[ProbeScore], task: Task) -> Table:
    """The numbers, for people."""
    found = Table(title=f"Linear probes of a frozen encoder: {task.metric}, loss in nats", header_style="bold")
    columns = ("", "layer", "errors", "95 %", "loss", "95 %")
    for number, column in enumerate(columns):
        found.add_column(column, justify="left" if number < 2 else "right")
    best, last = min(row.loss for row in rows), rows[0].representation
    for row in rows:
        if row.representation != last:
            found.add_section()
        last = row.representation
        layer = "weighted sum" if row.is_weighted_sum else "" if row.layer is None else str(row.layer)
        found.add_row(
            row.representation, layer, f"{row.error:.1%}", "{:.1%} - {:.1%}".format(*row.error_interval),
            f"{row.loss:.3f}", "{:.2f} - {:.2f}".format(*row.loss_interval), style="bold" if row.loss == best else None,
        )  # fmt: skip
    return found


def main() -> None:
    args = arguments()
    began = time.monotonic()
    logging.setLevel(logging.WARNING)
    folder = args.out or args.model.parent
    opened = load_encoder(args.model)
    layers = parse_layers(args.layers, opened.depth) if args.layers else list(range(1, opened.depth + 1))
    training = Training(args.epochs, args.learning_rate, seed=args.seed)
    alignments = dict(zip(NAMES, args.alignments, strict=True)) if args.alignments else None
    sets, task = open_sets(
        {name: getattr(args, name) for name in NAMES}, args.key, alignments, args.hours, opened.sample_rate
    )
    check_out(folder, kind_of(task), args.model)
    check_memory(opened, sum(one.seconds for one in sets.values()), values_per_frame(opened, layers, not args.no_baselines))
    untrained = None if args.no_baselines else untrained_encoder(opened, args.seed)

    splits, notes = {}, []
    with progress_bar(console=console, transient=True) as progress:
        advance = progress.start("outputs of the layers", sum(one.seconds for one in sets.values()))
        for name, one in sets.items():
            splits[name], unread = represent(one, task, opened, untrained, layers, args.workers, advance)
            notes += [f"{unread} utterances of the {name} set could not be read and are left out."] if unread else []
    train = next(iter(splits["train"].values()))
    if isinstance(task, CtcTask) and (short := task.num_impossible(train.counts, train.targets)):
        notes.append(f"{short} of {len(train.counts)} training utterances have more symbols than frames: not learned from.")
    with ProgressBars(console=console, transient=True) as progress:
        rows = evaluate(splits, layers, task, training, next(opened.encoder.parameters()).device, progress)
    constant = constant_error(train, next(iter(splits["test"].values())), task)
    minutes = {name: one.seconds / 60 for name, one in sets.items()}
    about = {"step": opened.step, "command": shlex.join(["python", *sys.argv]), "minutes": minutes, "notes": notes,
             "constant_error": constant, "training": asdict(training),
             "wall_seconds": round(time.monotonic() - began)}  # fmt: skip
    written = write_results(rows, task, args.model, about, folder)

    console.print(table(rows, task))
    audio = ", ".join(f"{name} {minute:.1f}" for name, minute in minutes.items())
    console.print(f"Minutes of audio: {audio}. {len(task.symbols)} symbols. {about['wall_seconds']} s.", highlight=False)
    for row in rows:
        if row.is_weighted_sum:
            shares = ", ".join(f"{layer}: {share:.2f}" for layer, share in zip(layers, row.layer_weights, strict=True))
            console.print(f"Weights of the layers, {row.representation}: {shares}", highlight=False)
    for note in notes:
        console.print(f"[yellow]Note:[/] {note}", highlight=False)
    console.print(conclusion(rows, task, constant), highlight=False)
    for path in written:
        console.print(str(path), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"probe.py: {error}")
