"""Command ``birq cluster-labels``: a teacher for offline relabelling, from k-means over a whole corpus."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from nemo_birq.command_line import options
from nemo_birq.command_line.command import command
from nemo_birq.utils.terminal import Terminal

if TYPE_CHECKING:
    from nemo_birq.extraction.clustering import Clustering

console = Terminal()


def table(found: "Clustering") -> Table:
    """Returns a table of two columns with the use of the clusters."""
    use = found.use
    rows = {
        "audio": f"{found.hours:.2f} h, {found.utterances:,} utterances",
        "frames": f"{found.frames:,}",
        "frames per cluster": f"{found.frames / len(found.file.centroids):.0f}",
        "clusters in use": f"{use.coverage:.1%}",
        "perplexity": f"{use.perplexity:.1f}",
        "normalized entropy": f"{use.normalized_entropy:.3f}",
        "largest cluster": f"{use.top1:.1%} of the frames",
    }
    shown = Table(title=f"{len(found.file.centroids)} clusters of layer {found.file.layer}", show_header=False)
    for row in rows.items():
        shown.add_row(*row)
    return shown


@command("cluster-labels")
@options.model_argument(".nemo or .ckpt of a pretraining run, or .nemo of a recognizer")
@options.data_argument()
@options.tars_option()
@options.layer_option("Layer, from 1 to the depth of the encoder; birq label-quality helps to choose it.", required=True)
@options.option("--clusters", type=int, required=True, help="Number of clusters, and num_codes of the second stage.")
@options.out_option("Output file of the teacher.", required=True)
@options.hours_option()
@options.seed_option("Seed of the selection of audio and of k-means.")
@options.batch_seconds_option()
@options.workers_option()
@options.ray_option("Compute the frames on a Ray cluster; without an address the running one, or one of this machine.")
def cluster_labels(
    model: Path, data: str, tars: str | None, layer: int, clusters: int, out: Path, hours: float | None, seed: int,
    batch_seconds: float, workers: int, ray: str | None,
) -> None:  # fmt: skip
    """Creates a teacher for offline relabelling as in HuBERT: k-means on the outputs of one layer of a trained model.

        birq cluster-labels best_rq.nemo train.json --layer 9 --clusters 500 --out teacher.pt
        birq cluster-labels best_rq.nemo /data/sharded_manifests/manifest__OP_0..511_CL_.json \\
            --tars /data/audio__OP_0..511_CL_.tar --layer 9 --clusters 500 --hours 100 --out teacher.pt

    The second stage trains a new encoder on the labels of the teacher:

        birq pretrain --config-name=best_rq_conformer_large \\
            model.birq.relabelling.teacher=teacher.pt model.birq.quantizer.num_codes=500 ...

    See docs/relabelling.md for details.
    """
    from nemo.utils import logging

    from nemo_birq.extraction.clustering import FrameExtraction, Spread, cluster
    from nemo_birq.extraction.data import open_data
    from nemo_birq.extraction.on_cluster import absolute, connect
    from nemo_birq.extraction.run import progress_bar
    from nemo_birq.loading import load_encoder
    from nemo_birq.modules.layer_pass import parse_layers

    logging.setLevel(logging.WARNING)
    if out.exists():
        raise ValueError(f"{out} exists already: give another name with --out, or remove it")
    opened = load_encoder(model)
    (number,) = parse_layers(str(layer), opened.depth)
    speech = open_data(data, tars, opened.sample_rate)
    spread = None
    if ray is not None:
        machines, of_a_task = connect(ray, workers)
        spread = Spread(machines, FrameExtraction(absolute(str(model)), absolute(data), absolute(tars), number), of_a_task)
    with progress_bar(console=console, transient=True) as progress:
        found = cluster(opened, speech, number, clusters, progress, model.name, hours, seed, batch_seconds, workers, spread)
    out.parent.mkdir(parents=True, exist_ok=True)
    found.file.save(out)
    console.print(table(found))
    for note in found.notes():
        console.print(Text.assemble(("Note: ", "yellow"), note))
    console.print(
        f"Second stage: model.birq.relabelling.teacher={out} model.birq.quantizer.num_codes={clusters} "
        "model.birq.loss.enhanced_weight=0",
        soft_wrap=True,
    )
    console.print(str(out), soft_wrap=True)
