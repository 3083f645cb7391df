"""``birq probe``: linear classifiers on the layers of a frozen encoder."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from nemo_birq.command_line import options
from nemo_birq.command_line.command import command, command_text
from nemo_birq.utils.terminal import Terminal

if TYPE_CHECKING:
    from nemo_birq.evaluation.probing.evaluation import ProbeScore
    from nemo_birq.evaluation.probing.tasks import Task

console = Terminal()


def table(rows: "list[ProbeScore]", task: "Task") -> Table:
    """Returns a row for each representation and layer."""
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


@command("probe")
@options.model_argument(".nemo or .ckpt of a pretraining, or .nemo of a recognizer")
@options.option("--train", required=True, metavar="DATA", help="Training set, a manifest or a folder of shards.")
@options.option("--dev", required=True, metavar="DATA", help="Set that chooses the epoch.")
@options.option("--test", required=True, metavar="DATA", help="Set on which errors are counted.")
@options.alignments_option(nargs=3, metavar="TRAIN DEV TEST", help="Probe phones: CTM files, or TextGrid folders.")
@options.option("--key", default="text", help="Key of the manifest with text or a list of phones.")
@options.hours_option("Hours of training audio, drawn at random; default: all.")
@options.layers_option("Layers to probe; default: all.")
@options.option("--no-baselines", is_flag=True, help="Leave out the untrained encoder and the log-mel features.")
@options.option("--epochs", type=int, default=30)
@options.option("--learning-rate", type=float, default=5e-3)
@options.seed_option("Seed of the order of batches and of the untrained encoder.")
@options.workers_option(1)
@options.out_option("Folder for the results; default: the folder of the model.")
def probe(
    model: Path, train: str, dev: str, test: str, alignments: tuple[Path, Path, Path] | None, key: str, hours: float | None,
    layers: str | None, no_baselines: bool, epochs: int, learning_rate: float, seed: int, workers: int, out: Path | None,
) -> None:  # fmt: skip
    """Trains a linear classifier on each layer of a frozen encoder, and on a learned weighted sum of them.

        birq probe model.nemo --train train.json --dev dev.json --test test.json
        birq probe model.nemo --train train --dev dev.json --test test.json \\
            --alignments train/phones.ctm dev/phones.ctm test/phones.ctm

    The first command predicts characters with CTC, the second one predicts the phone of each frame. The same probes on an
    untrained encoder and on the log-mel features are baselines that show the effect of pretraining. The results are
    probe_ctc_<model> or probe_frames_<model>, as .json and .png. docs/probing.md explains the numbers.
    """
    from nemo.utils import logging

    from nemo_birq.evaluation.encoders.nemo import LogMel, NemoEncoder
    from nemo_birq.evaluation.probing.data import NAMES, open_sets
    from nemo_birq.evaluation.probing.evaluation import conclusion
    from nemo_birq.evaluation.probing.linear import Training
    from nemo_birq.evaluation.probing.representations import LOG_MEL, PRETRAINED, UNTRAINED, Representation
    from nemo_birq.evaluation.probing.results import kind_of, write_results
    from nemo_birq.evaluation.probing.run import Speech, check_fits, read_outputs, train_probes
    from nemo_birq.evaluation.results import check_out
    from nemo_birq.extraction.run import progress_bar
    from nemo_birq.loading import load_encoder
    from nemo_birq.modules.layer_pass import parse_layers
    from nemo_birq.utils.progress import ProgressBars

    began = time.monotonic()
    logging.setLevel(logging.WARNING)
    folder = out or model.parent
    opened = load_encoder(model)
    numbers = parse_layers(layers, opened.depth) if layers else list(range(1, opened.depth + 1))
    training = Training(epochs, learning_rate, seed=seed)
    named = dict(zip(NAMES, map(str, alignments), strict=True)) if alignments else None
    sets, task = open_sets(dict(zip(NAMES, (train, dev, test), strict=True)), key, named, hours, opened.sample_rate)
    check_out(folder, kind_of(task), model)
    representations = {PRETRAINED: Representation(NemoEncoder(opened), numbers)}
    if not no_baselines:
        representations = {
            LOG_MEL: Representation(LogMel(opened), [1]),
            UNTRAINED: Representation(NemoEncoder.untrained(opened, seed), numbers),
        } | representations
    speech = {name: Speech(one.data, one.rows) for name, one in sets.items()}
    check_fits(representations, speech.values())

    with progress_bar(console=console, transient=True) as progress:
        advance = progress.start("outputs of the layers", sum(one.seconds for one in speech.values()))
        outputs, unread = read_outputs(representations, speech, workers, advance)
    with ProgressBars(console=console, transient=True) as progress:
        probed = train_probes(outputs, sets, task, representations, training, progress)
    rows, constant, notes = probed.rows, probed.constant_error, unread + probed.notes
    minutes = {name: one.seconds / 60 for name, one in speech.items()}
    about = {"step": opened.step, "command": command_text(), "minutes": minutes, "notes": notes,
             "constant_error": constant, "training": asdict(training),
             "wall_seconds": round(time.monotonic() - began)}  # fmt: skip
    written = write_results(rows, task, model, about, folder)

    console.print(table(rows, task))
    audio = ", ".join(f"{name} {minute:.1f}" for name, minute in minutes.items())
    console.print(f"Minutes of audio: {audio}. {len(task.symbols)} symbols. {about['wall_seconds']} s.")
    for row in rows:
        if row.is_weighted_sum:
            shares = ", ".join(f"{layer}: {share:.2f}" for layer, share in zip(numbers, row.layer_weights, strict=True))
            console.print(f"Weights of the layers, {row.representation}: {shares}")
    for note in notes:
        console.print(Text.assemble(("Note: ", "yellow"), note))
    console.print(conclusion(rows, task, constant))
    for path in written:
        console.print(str(path), soft_wrap=True)
