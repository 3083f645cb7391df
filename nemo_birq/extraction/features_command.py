"""Command ``birq extract-features``: the outputs of encoder layers for a whole corpus."""

from functools import partial
from pathlib import Path

import click

from nemo_birq.command_line import options
from nemo_birq.command_line.command import command, command_text
from nemo_birq.utils.terminal import Terminal

console = Terminal()


@command("extract-features")
@options.model_argument(".nemo or .ckpt of a pretraining run, or .nemo of a recognizer with a Conformer encoder")
@options.data_argument()
@options.tars_option()
@options.layers_option("Layers, from 1 to the depth of the encoder.", required=True)
@options.out_option("Output folder of the features.", required=True)
@options.option("--format", type=click.Choice(("npz", "lhotse")), default="npz", help="npz, or Lhotse's Shar.")
@options.option("--dtype", type=click.Choice(("float16", "float32")), default="float32")
@options.batch_seconds_option()
@options.part_minutes_option()
@options.workers_option()
@options.ray_option("Compute on a Ray cluster, a part a task; without an address the running one, or one of this machine.")
def extract_features(
    model: Path, data: str, tars: str | None, layers: str, out: Path, format: str, dtype: str, batch_seconds: float,
    part_minutes: float, workers: int, ray: str | None,
) -> None:  # fmt: skip
    """Writes the outputs of encoder layers for every utterance of a manifest or of tar shards.

        birq extract-features model.nemo data.json --layers 4,7 --out features
        birq extract-features model.nemo /data/shards --layers 13 --dtype float16 --format lhotse --out features

    Run the same command again to resume an interrupted extraction. docs/extraction.md explains how to read the result.
    """
    from nemo.utils import logging

    from nemo_birq.extraction.data import open_data
    from nemo_birq.extraction.features import DTYPES, FORMATS, FeatureExtraction, check_space, compute_features
    from nemo_birq.extraction.memory import check_longest
    from nemo_birq.extraction.on_cluster import absolute, connect, run_parts_on
    from nemo_birq.extraction.run import progress_bar, run_parts
    from nemo_birq.extraction.store import PartStore
    from nemo_birq.extraction.summary import print_summary
    from nemo_birq.loading import load_encoder
    from nemo_birq.modules.frame_times import encoder_times
    from nemo_birq.modules.layer_pass import parse_layers
    from nemo_birq.utils.files import file_sha256

    logging.setLevel(logging.WARNING)
    opened = load_encoder(model)
    numbers = parse_layers(layers, opened.depth)
    speech = open_data(data, tars, opened.sample_rate)
    check_space(out, opened, speech, numbers, dtype)
    check_longest(opened.model, speech)
    settings = {
        "what": "features", "model_sha256": file_sha256(model)[:16], "layers": numbers, "dtype": dtype,
        "format": format, "data": speech.fingerprint, "part_minutes": part_minutes,
    }  # fmt: skip
    times = encoder_times(opened.model)
    about = {"model": str(model), "command": command_text(), "width": opened.encoder.d_model,
             "frame_seconds": times.step, "first_frame_middle_seconds": times.first}  # fmt: skip
    sizes = 60 * part_minutes, batch_seconds
    with PartStore(out, settings, about) as store, progress_bar(console=console) as progress:
        if ray is None:
            compute = partial(compute_features, opened, layers=numbers, dtype=DTYPES[dtype])
            done = run_parts(speech, store, compute, FORMATS[format], progress, *sizes, workers)
        else:
            cluster, of_a_task = connect(ray, workers)
            task = FeatureExtraction(absolute(str(model)), absolute(data), absolute(tars), tuple(numbers), dtype, format)
            done = run_parts_on(cluster, task, speech, store, progress, *sizes, of_a_task)
        store.merge(done.parts, out / "manifest.json")
    print_summary(done, console)
    console.print(f"{out / 'manifest.json'}", soft_wrap=True)
