"""Hands a pretrained encoder on: without what only pretraining needs, or in a format for other runtimes.

    python scripts/export_encoder.py pretrained.nemo hub/encoder.nemo --license cc-by-4.0 --language en
    python scripts/export_encoder.py pretrained.nemo encoder.onnx
    python scripts/export_encoder.py pretrained.nemo encoder.ts

The suffix of the second file says what it becomes. A .nemo opens in stock NeMo, and gets a model card: inside, and as
README.md beside it, as the Hugging Face hub expects it. .onnx and .ts (TorchScript, also .pt) take log-mel features and are
compared with PyTorch before they are written. docs/handoff.md has the rest.
"""

import argparse
import sys
from pathlib import Path

from nemo.utils import logging
from rich.console import Console
from rich.table import Table

from nemo_birq.export.bare_encoder import BareEncoder, check_source, strip, write_nemo
from nemo_birq.export.output_files import README, check_output
from nemo_birq.export.runtime_files import describe, write_runtime_file

console = Console(highlight=False)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help=".nemo that pretraining ended with")
    parser.add_argument("out", type=Path, help="file to write: .nemo, .onnx, .ts or .pt")
    parser.add_argument("--layer", type=int, help="only the layers 1 to LAYER (default: all)")
    parser.add_argument("--license", help="for the model card: one of the hub's names, such as cc-by-4.0 or apache-2.0")
    parser.add_argument("--language", nargs="+", help="for the model card: of the speech, such as en de")
    parser.add_argument(
        "--datasets", nargs="+", help="for the model card: names on the hub, such as openslr/librispeech_asr"
    )
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    return parser.parse_args()


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.2f} MB"


def table(bare: BareEncoder) -> Table:
    """What stays and what goes."""
    found = Table("part", "kept", "removed", header_style="bold")
    for part in bare.kept | bare.removed:
        found.add_row(part, *(megabytes(sizes[part]) if part in sizes else "" for sizes in (bare.kept, bare.removed)))
    return found


def main() -> None:
    args = arguments()
    logging.setLevel(logging.ERROR)
    check_source(args.source)
    check_output(args.source, args.out, args.force)
    with console.status("opening the model"):
        bare = strip(args.source, args.layer, license=args.license, language=args.language, datasets=args.datasets)
    with console.status(f"writing {args.out}"):
        if args.out.suffix == ".nemo":
            write_nemo(bare.model, args.out)
        else:
            deviation = write_runtime_file(bare.model, args.out)
    console.print(table(bare))
    if bare.removed_keys:
        console.print(f"removed from the configuration: {', '.join(bare.removed_keys)}", soft_wrap=True)
    for path in (args.source, args.out):
        console.print(f"{megabytes(path.stat().st_size):>12}  {path}", soft_wrap=True)
    if args.out.suffix == ".nemo":
        console.print(f"model card    {args.out.with_name(README)}", soft_wrap=True)
        return
    if deviation is None:
        console.print("[yellow]not compared with PyTorch: pip install onnxruntime")
    else:
        console.print(f"largest difference to PyTorch, over several lengths and batches: {deviation:.1e}")
    console.print(f"input: log-mel features, up to {describe(bare.model)['longest_input_seconds']:.0f} s of audio")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"export_encoder.py: {error}")
