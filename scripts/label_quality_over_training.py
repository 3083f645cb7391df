"""How well labels tell phones apart, at every checkpoint that a pretraining has kept.

    python scripts/label_quality_over_training.py nemo_experiments/<name>/checkpoints/<name>.nemo \
        --manifest tarred_manifests/validation/validation.json --alignments tarred_manifests/validation/phones.ctm

Looks at the checkpoints beside the .nemo (exp_manager.checkpoint_callback_params.save_top_k=-1 keeps all) and at the .nemo
itself, with k-means of each layer for the latter. Writes labels_over_training.json beside it, or --out.
scripts/label_quality.py looks closer at a single one.
"""

import argparse
import sys
from pathlib import Path

from nemo.utils import logging
from rich.console import Console
from rich.table import Table

from nemo_birq.evaluation.label_quality.over_training import score_checkpoints
from nemo_birq.evaluation.label_quality.utterances import read_utterances
from nemo_birq.utils.files import write_json
from nemo_birq.utils.progress import ProgressBars

console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help=".nemo that pretraining ended with")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest of single audio files")
    parser.add_argument("--alignments", type=Path, required=True, help="CTM file, or folder of TextGrid files")
    parser.add_argument("--hours", type=float, help="take only so much audio, drawn at random (default: all)")
    parser.add_argument("--out", type=Path, help="json file (default: labels_over_training.json beside the model)")
    args = parser.parse_args()
    out = args.out or args.model.parent / "labels_over_training.json"
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out {out}: there is no such folder")
    logging.setLevel(logging.WARNING)
    utterances = read_utterances(args.manifest, args.alignments, args.hours)
    with ProgressBars(console=console, transient=True) as progress:
        rows = score_checkpoints(args.model, utterances, progress)
    write_json(out, rows)

    table = Table(title=f"Labels against phones, {len(utterances.lines)} utterances", header_style="bold")
    for column in ("step", "labels", "layer", "PNMI", "by chance", "phone purity", "cluster purity", "codes", "entropy"):
        table.add_column(column, justify="left" if column == "labels" else "right")
    numbers = ("pnmi", "pnmi_by_chance", "phone_purity", "cluster_purity")
    for row in rows:
        entropy = f"{row['entropy']:.2f}" if "entropy" in row else ""
        found = (f"{row[key]:.3f}" for key in numbers)
        table.add_row(str(row["step"]), row["labels"], str(row.get("layer", "")), *found, str(row["codes_used"]), entropy)
    console.print(table)
    console.print(str(out), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"label_quality_over_training.py: {error}")
