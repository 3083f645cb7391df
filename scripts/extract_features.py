"""Writes the outputs of encoder layers for every utterance of a manifest or of tar shards.

    python scripts/extract_features.py model.nemo data.json --layers 4,7 --out features
    python scripts/extract_features.py model.nemo /data/shards --layers 13 --dtype float16 --format lhotse --out features

The model is a .nemo or .ckpt of a pretraining, or the .nemo of a recognizer with a Conformer encoder. The same command again
goes on where it was interrupted. docs/extraction.md says how to read the result.
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
from nemo_birq.extraction.features import DTYPES, FORMATS, check_space, compute_features
from nemo_birq.extraction.run import progress_bar, run_parts
from nemo_birq.extraction.store import PartStore
from nemo_birq.loading import load_encoder
from nemo_birq.modules.frame_times import encoder_times
from nemo_birq.modules.layer_pass import parse_layers
from nemo_birq.utils.files import file_sha256

console = Console()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help=".nemo, or .ckpt of a pretraining")
    parser.add_argument("data", help="manifest, or folder of shards")
    parser.add_argument("--layers", required=True, help="1 to the depth of the encoder, such as 4,7")
    parser.add_argument("--out", type=Path, required=True, help="folder for the features")
    parser.add_argument("--format", choices=FORMATS, default="npz", help="npz (default), or Lhotse's Shar")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    add_run_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    logging.setLevel(logging.WARNING)
    opened = load_encoder(args.model)
    layers = parse_layers(args.layers, opened.depth)
    data = open_data(args.data, args.tars, opened.sample_rate)
    check_space(args.out, opened, data, layers, args.dtype)
    settings = {
        "what": "features", "model_sha256": file_sha256(args.model)[:16], "layers": layers, "dtype": args.dtype,
        "format": args.format, "data": data.fingerprint, "part_minutes": args.part_minutes,
    }  # fmt: skip
    times = encoder_times(opened.model)
    about = {"model": str(args.model), "command": shlex.join(["python", *sys.argv]), "width": opened.encoder.d_model,
             "frame_seconds": times.step, "first_frame_middle_seconds": times.first}  # fmt: skip
    compute = partial(compute_features, opened, layers=layers, dtype=DTYPES[args.dtype])
    with PartStore(args.out, settings, about) as store, progress_bar(console=console) as progress:
        done = run_parts(
            data, store, compute, FORMATS[args.format], progress, 60 * args.part_minutes, args.batch_seconds, args.workers
        )
        store.merge(done.parts, args.out / "manifest.json")
    say(done, console)
    console.print(f"{args.out / 'manifest.json'}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"extract_features.py: {error}")
