"""Makes a teacher for offline relabelling, HuBERT's way: k-means on the output of one layer of a trained model.

    python scripts/cluster_labels.py best_rq.nemo --layer 9 --clusters 500 --manifest train.json --out teacher.pt
    python scripts/cluster_labels.py best_rq.nemo --layer 9 --clusters 500 --hours 100 --out teacher.pt \
        --manifest /data/sharded_manifests/manifest__OP_0..511_CL_.json --tarred-audio /data/audio__OP_0..511_CL_.tar

The second stage is trained on its labels, with an encoder that begins anew:

    python scripts/speech_pre_training.py --config-name=best_rq_conformer_large \
        model.birq.relabelling.teacher=teacher.pt model.birq.quantizer.num_codes=500 ...

docs/relabelling.md has the rest.
"""

import argparse
import os
import sys
from pathlib import Path

from nemo.utils import logging
from rich.console import Console
from rich.table import Table

from nemo_birq.extraction.clustering import Clustering, cluster
from nemo_birq.extraction.command import positive
from nemo_birq.extraction.data import open_data
from nemo_birq.extraction.run import progress_bar
from nemo_birq.loading import load_encoder
from nemo_birq.modules.layer_pass import parse_layers

console = Console()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help=".nemo or .ckpt of a pretraining, or .nemo of a recognizer")
    parser.add_argument("--layer", type=int, required=True, help="K, from 1 to the depth; label_quality.py helps to choose")
    parser.add_argument("--clusters", type=int, required=True, help="V, the num_codes of the second stage")
    parser.add_argument("--manifest", required=True, help="manifest, pattern of sharded manifests, or folder of shards")
    parser.add_argument("--tarred-audio", help="tar files, where the manifest is a pattern of sharded manifests")
    parser.add_argument("--out", type=Path, required=True, help="teacher to write")
    parser.add_argument("--hours", type=positive, help="take only so much audio, drawn at random (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of that draw and of k-means (default 0)")
    parser.add_argument("--batch-seconds", type=positive, default=120.0, help="audio of a batch, with padding (default 120)")
    parser.add_argument(
        "--workers", type=int, default=min(4, os.cpu_count() or 1), help="processes that decode (default: up to 4)"
    )
    return parser.parse_args()


def table(found: Clustering) -> Table:
    """How the clusters are used, for people."""
    use = found.use
    rows = {
        "audio": f"{found.hours:.2f} h, {found.utterances:,} utterances",
        "frames": f"{found.frames:,}",
        "frames a cluster": f"{found.frames / len(found.file.centroids):.0f}",
        "clusters in use": f"{use.coverage:.1%}",
        "perplexity": f"{use.perplexity:.1f}",
        "normalized entropy": f"{use.normalized_entropy:.3f}",
        "largest cluster": f"{use.top1:.1%} of the frames",
    }
    shown = Table(title=f"{len(found.file.centroids)} clusters of layer {found.file.layer}", show_header=False)
    for row in rows.items():
        shown.add_row(*row)
    return shown


def main() -> None:
    args = arguments()
    logging.setLevel(logging.WARNING)
    if args.out.exists():
        raise ValueError(f"{args.out} exists already: give another name with --out, or remove it")
    opened = load_encoder(args.model)
    (layer,) = parse_layers(str(args.layer), opened.depth)
    data = open_data(args.manifest, args.tarred_audio, opened.sample_rate)
    with progress_bar(console=console, transient=True) as progress:
        found = cluster(
            opened, data, layer, args.clusters, progress, args.model.name, args.hours, args.seed, args.batch_seconds,
            args.workers,
        )  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    found.file.save(args.out)
    console.print(table(found))
    for note in found.notes():
        console.print(f"[yellow]Note:[/] {note}", highlight=False)
    console.print(
        f"Second stage: model.birq.relabelling.teacher={args.out} model.birq.quantizer.num_codes={args.clusters} "
        "model.birq.loss.enhanced_weight=0",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    console.print(str(args.out), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"cluster_labels.py: {error}")
