"""Do the labels mean anything? Compares a model's labels with the phones of an alignment.

    python scripts/label_quality.py model.nemo --manifest tarred_manifests/validation/validation.json \
        --alignments tarred_manifests/validation/phones.ctm

Prints phone purity, cluster purity and PNMI of the anchor labels, the enhanced labels, the nearest codes of every layer and
k-means of every layer, and says which layer tells most. Writes label_quality_<model>.json, label_quality_<model>_layers.png
and label_quality_<model>_phones.png beside the model, or to --out. docs/label_quality.md explains the numbers.
"""

import argparse
import shlex
import sys
from pathlib import Path

from nemo.utils import logging
from rich.console import Console
from rich.table import Table

from nemo_birq.evaluation.label_quality.evaluation import Evaluation, evaluate, which_layer
from nemo_birq.evaluation.label_quality.results import KIND, write_results
from nemo_birq.evaluation.label_quality.utterances import read_utterances
from nemo_birq.evaluation.results import check_out
from nemo_birq.loading import load_model
from nemo_birq.utils.progress import ProgressBars

NAMES = {"anchor": "anchor", "enhanced": "enhanced", "layer": "nearest", "kmeans": "k-means"}
console = Console()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help=".nemo, or .ckpt of a training run")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest of single audio files")
    parser.add_argument("--alignments", type=Path, required=True, help="CTM file, or folder of TextGrid files")
    parser.add_argument("--out", type=Path, help="folder for the results (default: that of the model)")
    parser.add_argument("--hours", type=float, help="take only so much audio, drawn at random (default: all)")
    parser.add_argument("--ignore-silence", action="store_true", help="leave out frames of silence")
    parser.add_argument("--no-kmeans", action="store_true", help="leave out k-means, the slow part for large models")
    parser.add_argument("--kmeans-frames", type=int, default=100_000, help="fit k-means on so many frames (default 100000)")
    return parser.parse_args()


def table(evaluation: Evaluation) -> Table:
    """The numbers, for people."""
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
            f"{q.cluster_purity:.3f}", f"[bold]{q.pnmi:.3f}" if best else f"{q.pnmi:.3f}", f"{q.pnmi_by_chance:.3f}",
        )  # fmt: skip
    return found


def main() -> None:
    args = arguments()
    logging.setLevel(logging.WARNING)
    folder = args.out or args.model.parent
    model = load_model(args.model)
    check_out(folder, KIND, args.model)
    utterances = read_utterances(args.manifest, args.alignments, args.hours)
    with ProgressBars(console=console, transient=True) as progress:
        evaluation = evaluate(model, utterances, progress, not args.no_kmeans, args.kmeans_frames, args.ignore_silence)
    about = {"step": model.trained_steps, "command": shlex.join(["python", *sys.argv])}
    written = write_results(evaluation, args.model, about, folder)

    console.print(table(evaluation))
    silence = "left out" if args.ignore_silence else "one phone, SIL; --ignore-silence leaves it out"
    console.print(
        f"{len(utterances.lines)} utterances, {utterances.seconds / 60:.1f} minutes, {utterances.coverage:.1%} aligned; "
        f"{evaluation.frames_without_phone} frames without a phone left out; H(phone) {evaluation.phone_entropy:.2f} nats; "
        f"{evaluation.silence_share:.0%} of the frames are silence ({silence}).",
        highlight=False,
    )
    console.print("Compare labels only at the same number of codes, and on the same utterances.", highlight=False)
    for note in evaluation.notes:
        console.print(f"[yellow]Note:[/] {note}", highlight=False)
    console.print(f"[bold]Which layer k?[/] {which_layer(evaluation)}", highlight=False)
    for path in written:
        console.print(str(path), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"label_quality.py: {error}")
