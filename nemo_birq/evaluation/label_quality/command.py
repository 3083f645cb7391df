"""``birq label-quality``, which compares the labels of a model with phones."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from nemo_birq.command_line import options
from nemo_birq.command_line.command import command, command_text
from nemo_birq.utils.terminal import Terminal

if TYPE_CHECKING:
    from nemo_birq.evaluation.label_quality.evaluation import Evaluation

NAMES = {"anchor": "anchor", "enhanced": "enhanced", "layer": "nearest", "kmeans": "k-means"}
console = Terminal()


def table(evaluation: "Evaluation") -> Table:
    """Returns a row for each kind of labels and layer."""
    found = Table(title=f"Labels against phones, {evaluation.rows[0].codes} codes", header_style="bold")
    found.add_column("labels")
    for column in ("layer", "frames", "used", "phone purity", "cluster purity", "PNMI", "by chance"):
        found.add_column(column, justify="right")
    last = "anchor"
    for row in evaluation.rows:
        if row.labels in ("layer", "kmeans") and row.labels != last:
            found.add_section()
        last, q = row.labels, row.quality
        layer = "" if row.layer is None else f"{row.layer}{' = k' if row.layer == evaluation.layer else ''}"
        best = row.labels in ("layer", "kmeans") and q.pnmi == max(r.quality.pnmi for r in evaluation.of(row.labels))
        found.add_row(
            NAMES[row.labels], layer, f"{q.frames:,}", f"{q.codes_used:,}", f"{q.phone_purity:.3f}",
            f"{q.cluster_purity:.3f}", Text(f"{q.pnmi:.3f}", style="bold" if best else ""), f"{q.pnmi_by_chance:.3f}",
        )  # fmt: skip
    return found


@command("label-quality")
@options.model_argument(".nemo, or .ckpt of a training run")
@options.data_argument()
@options.tars_option()
@options.alignments_option(required=True)
@options.out_option("Folder for the results; default: the folder of the model.")
@options.hours_option()
@options.option("--ignore-silence", is_flag=True, help="Leave out frames of silence.")
@options.option("--no-kmeans", is_flag=True, help="Leave out k-means, the slow part for large models.")
@options.option("--kmeans-frames", type=int, default=100_000, help="Number of frames to fit k-means on.")
def label_quality(
    model: Path, data: str, tars: str | None, alignments: Path, out: Path | None, hours: float | None,
    ignore_silence: bool, no_kmeans: bool, kmeans_frames: int,
) -> None:  # fmt: skip
    """Compares a model's labels with the phones of an alignment.

        birq label-quality model.nemo tarred_manifests/validation/validation.json \\
            --alignments tarred_manifests/validation/phones.ctm

    The command prints phone purity, cluster purity and PNMI of the anchor labels, the enhanced labels, the nearest codes of
    every layer and k-means of every layer, and names the layer with the highest PNMI. It writes label_quality_<model>.json,
    label_quality_<model>_layers.png and label_quality_<model>_phones.png. docs/label_quality.md explains the numbers.
    """
    from nemo.utils import logging

    from nemo_birq.evaluation.label_quality.evaluation import evaluate, which_layer
    from nemo_birq.evaluation.label_quality.results import KIND, write_results
    from nemo_birq.evaluation.label_quality.utterances import read_utterances
    from nemo_birq.evaluation.results import check_out
    from nemo_birq.loading import load_model
    from nemo_birq.utils.progress import ProgressBars

    logging.setLevel(logging.WARNING)
    folder = out or model.parent
    opened = load_model(model)
    check_out(folder, KIND, model)
    utterances = read_utterances(data, alignments, hours, tars)
    with ProgressBars(console=console, transient=True) as progress:
        evaluation = evaluate(opened, utterances, progress, not no_kmeans, kmeans_frames, ignore_silence)
    about = {"step": opened.trained_steps, "command": command_text()}
    written = write_results(evaluation, model, about, folder)

    console.print(table(evaluation))
    silence = "left out" if ignore_silence else "one phone, SIL; --ignore-silence leaves it out"
    console.print(
        f"{len(utterances.lines)} utterances, {utterances.seconds / 60:.1f} minutes, {utterances.coverage:.1%} aligned; "
        f"{evaluation.frames_without_phone} frames without a phone left out; H(phone) {evaluation.phone_entropy:.2f} nats; "
        f"{evaluation.silence_share:.0%} of the frames are silence ({silence}).",
    )
    console.print("Compare labels only at the same number of codes, and on the same utterances.")
    for note in evaluation.notes:
        console.print(Text.assemble(("Note: ", "yellow"), note))
    console.print(Text.assemble(("Which layer k? ", "bold"), which_layer(evaluation)))
    for path in written:
        console.print(str(path), soft_wrap=True)
