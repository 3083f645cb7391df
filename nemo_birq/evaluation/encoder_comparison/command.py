"""``birq compare-encoders``: ABX and linear probes of several frozen encoders in one table."""

from dataclasses import asdict
from pathlib import Path

import click
from rich.text import Text

from nemo_birq.command_line import options
from nemo_birq.command_line.command import PATH, command, command_text
from nemo_birq.utils.terminal import Terminal

console = Terminal()


@command("compare-encoders")
@options.argument(
    "encoders", ".nemo of NeMo, .ckpt of a pretraining, or folder of transformers", type=PATH, nargs=-1, required=True
)
@options.option(
    "--train", required=True, metavar="DATA", help="Training set of the probes: a manifest, or a folder of shards."
)
@options.option("--dev", required=True, metavar="DATA", help="Set that chooses epochs and layers.")
@options.option("--test", required=True, metavar="DATA", help="Set that the errors are counted on.")
@options.alignments_option(nargs=3, metavar="TRAIN DEV TEST", help="Phones, for ABX and frames: CTM or TextGrid folders.")
@options.option("--abx", type=click.Choice(("triphone", "phone")), default="triphone", help="Items that ABX compares.")
@options.option("--key", default="text", help="Key of the manifest with text or a list of phones, for CTC.")
@options.hours_option("Train probes on so much audio, drawn at random; without it all.")
@options.option("--epochs", type=int, default=30, help="Epochs of the probes.")
@options.option("--learning-rate", type=float, default=5e-3, help="Learning rate of the probes.")
@options.seed_option("Seed of the order of batches.")
@options.workers_option(1)
@options.out_option("Folder for the results.", required=True)
def compare_encoders(
    encoders: tuple[Path, ...], train: str, dev: str, test: str, alignments: tuple[Path, Path, Path] | None, abx: str,
    key: str, hours: float | None, epochs: int, learning_rate: float, seed: int, workers: int, out: Path,
) -> None:  # fmt: skip
    """Measures the layers of frozen encoders, and prints one table.

        birq compare-encoders ours.nemo nest.nemo hub/encoder --out encoders \\
            --train train.json --dev dev.json --test test.json
        birq compare-encoders ours.nemo nest.nemo --out encoders --train train --dev dev.json --test test.json \\
            --alignments train/phones.ctm dev/phones.ctm test/phones.ctm

    The probes read characters with CTC and, with alignments, the phone of each frame, as those of birq probe. ABX needs
    alignments, the key speaker in the manifests, and fastabx: pip install 'nemo_birq[abx]' in an environment with Python
    3.12 or later. Without it, the table has the other columns. Writes encoders.json and encoders.png into --out.
    docs/comparing_encoders.md explains the numbers.
    """
    from nemo.utils import logging

    from nemo_birq.evaluation.abx.items import check_speakers
    from nemo_birq.evaluation.abx.score import MISSING, is_available
    from nemo_birq.evaluation.encoder_comparison.differences import abx_differences
    from nemo_birq.evaluation.encoder_comparison.measure import Material, measure
    from nemo_birq.evaluation.encoder_comparison.results import names, write_results
    from nemo_birq.evaluation.encoder_comparison.table import table
    from nemo_birq.evaluation.encoders.opening import check_path
    from nemo_birq.evaluation.label_quality.utterances import SAMPLE_RATE
    from nemo_birq.evaluation.probing.data import NAMES, open_sets
    from nemo_birq.evaluation.probing.linear import Training
    from nemo_birq.extraction.run import progress_bar

    logging.setLevel(logging.WARNING)
    for path in encoders:
        check_path(path)
    paths = dict(zip(NAMES, (train, dev, test), strict=True))
    named = dict(zip(NAMES, map(str, alignments), strict=True)) if alignments else None
    training = Training(epochs, learning_rate, seed=seed)
    tasks = [open_sets(paths, key, given, hours, SAMPLE_RATE) for given in ((named, None) if named else (None,))]
    aligned, notes = None, []
    if named:
        aligned = tasks[0][0]
        unnamed = [problem for name in ("dev", "test") if (problem := check_speakers(aligned[name], name))]
        reason = MISSING if not is_available() else f"ABX is left out: {unnamed[0]}" if unnamed else None
        if reason:
            aligned, notes = None, [f"{reason}."]
            _note(notes[0])
    material = Material(tasks, aligned, abx, training, workers)
    minutes = {name: one.seconds / 60 for name, one in material.speech(SAMPLE_RATE).items()}
    about = {"command": command_text(), "minutes": minutes, "abx_items": abx if aligned else None, "notes": notes,
             "training": asdict(training)}  # fmt: skip
    rows = []
    with progress_bar(console=console, transient=True) as progress:
        for name, path in zip(names(encoders), encoders, strict=True):
            rows.append(measure(name, path, material, progress))
            written = write_results(rows, about, out)  # also if a later encoder fails
    console.print(table(rows))
    for difference in abx_differences(rows):
        console.print(Text(str(difference)))
    audio = ", ".join(f"{name} {minute:.1f}" for name, minute in minutes.items())
    console.print(f"Minutes of audio: {audio}. {sum(row.wall_seconds for row in rows):.0f} s.")
    for note in dict.fromkeys(f"{row.name}: {note}" for row in rows for note in row.notes):
        _note(note)
    for path in written:
        console.print(str(path), soft_wrap=True)


def _note(text: str) -> None:
    console.print(Text.assemble(("Note: ", "yellow"), text))
