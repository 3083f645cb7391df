"""Command ``birq extract-labels``: anchor or enhanced labels of a whole corpus."""

from functools import partial
from pathlib import Path

import click

from nemo_birq.command_line import options
from nemo_birq.command_line.command import command, command_text
from nemo_birq.utils.terminal import Terminal

console = Terminal()


@command("extract-labels")
@options.model_argument(".nemo or .ckpt of a pretraining run")
@options.data_argument()
@options.tars_option()
@options.option("--labels", type=click.Choice(("anchor", "enhanced")), required=True, help="Kind of labels.")
@options.out_option("Output manifest.", required=True)
@options.batch_seconds_option()
@options.part_minutes_option()
@options.workers_option()
@options.ray_option("Compute on a Ray cluster, a part a task; without an address the running one, or one of this machine.")
def extract_labels(
    model: Path, data: str, tars: str | None, labels: str, out: Path, batch_seconds: float, part_minutes: float,
    workers: int, ray: str | None,
) -> None:  # fmt: skip
    """Writes the anchor or enhanced labels of every utterance as integers to a NeMo manifest.

        birq extract-labels model.nemo data.json --labels enhanced --out labels.json
        birq extract-labels model.nemo /data/shards --labels anchor --out labels.json

    Each line is that of the input with the additional key anchor_labels or enhanced_labels: a code for each encoder frame
    (40 ms with 4-fold subsampling). Enhanced labels are nearest codes, without Gumbel noise. Run the same command again to
    resume an interrupted extraction. See docs/extraction.md for details.
    """
    from nemo.utils import logging

    from nemo_birq.extraction.data import open_data
    from nemo_birq.extraction.labels import (
        LabelExtraction,
        check_can_label,
        compute_labels,
        finish,
        is_complete,
        parts_folder,
        write_labels,
    )
    from nemo_birq.extraction.memory import check_longest
    from nemo_birq.extraction.on_cluster import absolute, connect, run_parts_on
    from nemo_birq.extraction.run import progress_bar, run_parts
    from nemo_birq.extraction.store import PartStore
    from nemo_birq.extraction.summary import print_summary
    from nemo_birq.loading import load_model
    from nemo_birq.modules.frame_times import anchor_times, encoder_times
    from nemo_birq.utils.files import file_sha256

    logging.setLevel(logging.WARNING)
    opened = load_model(model)
    check_can_label(opened, model, labels)
    speech = open_data(data, tars, opened.cfg.sample_rate)
    if labels == "enhanced" or opened.teacher is not None:  # anchor labels without a teacher need no encoder
        check_longest(opened, speech)
    settings = {"what": f"{labels} labels", "model_sha256": file_sha256(model)[:16], "data": speech.fingerprint,
                "part_minutes": part_minutes}  # fmt: skip
    if is_complete(out, settings):
        console.print(f"{out} is already complete", soft_wrap=True)
        return
    quantizer = opened.birq.quantizer
    times = anchor_times(opened) if labels == "anchor" else encoder_times(opened)
    about = {"model": str(model), "command": command_text(), "num_codes": quantizer.num_codes,
             "num_books": quantizer.num_books, "layer": opened.layer if labels == "enhanced" else None,
             "frame_seconds": times.step, "first_frame_middle_seconds": times.first}  # fmt: skip
    sizes = 60 * part_minutes, batch_seconds
    out.parent.mkdir(parents=True, exist_ok=True)
    with PartStore(parts_folder(out), settings, about) as store:
        with progress_bar(console=console) as progress:
            if ray is None:
                compute = partial(compute_labels, opened, kind=labels)
                done = run_parts(speech, store, compute, write_labels(labels), progress, *sizes, workers)
            else:
                cluster, of_a_task = connect(ray, workers)
                task = LabelExtraction(absolute(str(model)), absolute(data), absolute(tars), labels)
                done = run_parts_on(cluster, task, speech, store, progress, *sizes, of_a_task)
        finish(store, done.parts, out)
    print_summary(done, console)
    console.print(str(out), soft_wrap=True)
