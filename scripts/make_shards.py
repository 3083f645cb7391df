"""Packs the audio files of a NeMo manifest into tar shards, as they are.

python scripts/make_shards.py --manifest /data/train.json --out /data/train_shards --num-shards 64
"""

import argparse
from pathlib import Path

from rich.progress import track

from nemo_birq.data.manifests import check_manifest_of_files
from nemo_birq.data.shards import utterances_of_manifest, write_shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, help="JSON lines with audio_filepath and duration")
    parser.add_argument("--out", type=Path, required=True, help="folder for shards and manifests")
    parser.add_argument("--num-shards", type=int, default=8, help="at least the number of GPUs times workers (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle over shards")
    args = parser.parse_args()
    lines = check_manifest_of_files(str(args.manifest))
    utterances = utterances_of_manifest(args.manifest, lines, args.seed)
    write_shards(track(utterances, description=f"{args.num_shards} shards"), args.out, args.num_shards)
    hours = sum(line["duration"] for line in lines) / 3600
    print(f"{len(utterances)} utterances, {hours:.2f} hours in {args.num_shards} shards under {args.out}")


if __name__ == "__main__":
    main()
