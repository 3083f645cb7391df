"""Writes anchor or enhanced labels of every utterance, as integers, into a NeMo manifest.

    python scripts/extract_labels.py model.nemo data.json --labels enhanced --out labels.json
    python scripts/extract_labels.py model.nemo /data/shards --labels anchor --out labels.json

Each line is that of the input with one more key, anchor_labels or enhanced_labels: a code for each encoder frame (40 ms with
4-fold subsampling). Enhanced labels are nearest codes, without Gumbel noise. The same command again goes on where it was
interrupted. docs/extraction.md has the rest.
"""

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path

from nemo.utils import logging
from rich.console import Console

from nemo_birq.extraction.command import add_run_arguments, say
from nemo_birq.extraction.data import open_data
from nemo_birq.extraction.labels import (
    KINDS,
    check_can_label,
    compute_labels,
    finish,
    is_complete,
    parts_folder,
    write_labels,
)
from nemo_birq.extraction.run import progress_bar, run_parts
from nemo_birq.extraction.store import PartStore
from nemo_birq.loading import load_model
from nemo_birq.modules.frame_times import anchor_times, encoder_times
from nemo_birq.utils.files import file_sha256

console = Console()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help=".nemo or .ckpt of a pretraining")
    parser.add_argument("data", help="manifest, or folder of shards")
    parser.add_argument("--labels", choices=KINDS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="manifest to write")
    add_run_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    logging.setLevel(logging.WARNING)
    model = load_model(args.model)
    check_can_label(model, args.labels)
    data = open_data(args.data, args.tars, model.cfg.sample_rate)
    settings = {"what": f"{args.labels} labels", "model_sha256": file_sha256(args.model)[:16], "data": data.fingerprint,
                "part_minutes": args.part_minutes}  # fmt: skip
    if is_complete(args.out, settings):
        console.print(f"{args.out} is complete already", soft_wrap=True, highlight=False)
        return
    quantizer = model.birq.quantizer
    times = anchor_times(model) if args.labels == "anchor" else encoder_times(model)
    about = {"model": str(args.model), "command": shlex.join(["python", *sys.argv]), "num_codes": quantizer.num_codes,
             "num_books": quantizer.num_books, "layer": model.layer if args.labels == "enhanced" else None,
             "frame_seconds": times.step, "first_frame_middle_seconds": times.first}  # fmt: skip
    compute, write = partial(compute_labels, model, kind=args.labels), write_labels(args.labels)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with PartStore(parts_folder(args.out), settings, about) as store:
        with progress_bar(console=console) as progress:
            done = run_parts(data, store, compute, write, progress, 60 * args.part_minutes, args.batch_seconds, args.workers)
        finish(store, done.parts, args.out)
    say(done, console)
    console.print(str(args.out), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"extract_labels.py: {error}")
