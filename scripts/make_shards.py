"""Builds tar shards in NeMo's format from any pile of audio. docs/data.md has the whole story.

python scripts/make_shards.py folder /data/podcasts --out /data/shards --codec opus
python scripts/make_shards.py manifest train.json --out /data/shards --num-shards 64
python scripts/make_shards.py librispeech /data/LibriSpeech --out /data/librispeech_960 --workers 32
python scripts/make_shards.py ami /data/ami --mic sdm --split train --out /data/ami_sdm_train
python scripts/make_shards.py yodas /data/yodas2 --subsets en000 --out /data/yodas_en --buckets 4

A build that was interrupted goes on when the same command is given again.
"""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nemo_birq.data.shards.audio import CODECS
from nemo_birq.data.shards.build import CARD, Recipe, build
from nemo_birq.data.shards.plan import BuildOptions
from nemo_birq.data.shards.recipes.ami import AmiRecipe
from nemo_birq.data.shards.recipes.cuts import CutsRecipe
from nemo_birq.data.shards.recipes.folder import FolderRecipe
from nemo_birq.data.shards.recipes.librispeech import PARTS, TRAIN_960, LibriSpeechRecipe
from nemo_birq.data.shards.recipes.manifest import ManifestRecipe
from nemo_birq.data.shards.recipes.yodas import YodasRecipe
from nemo_birq.data.shards.segments import BuildError


def parse_arguments() -> argparse.Namespace:
    options = BuildOptions()
    out = argparse.ArgumentParser(add_help=False)
    add = out.add_argument_group("output").add_argument
    add("--out", type=Path, required=True, help="folder for shards and manifests: a new one, or that of the same command")
    add("--codec", choices=CODECS, default=options.codec, help=f"format of the members (default {options.codec})")
    add("--sample-rate", type=int, default=options.sample_rate, help=f"Hz (default {options.sample_rate})")
    add("--min-duration", type=float, default=options.min_duration, help="seconds; shorter utterances are left out (0.1)")
    add("--max-duration", type=float, default=options.max_duration, help="seconds; longer utterances are cut (30)")
    add("--shard-hours", type=float, default=options.shard_hours, help="hours of audio in a shard, roughly (1.0)")
    add("--num-shards", type=int, help="shards (of each bucket) instead; at least GPUs times workers of the training")
    add("--buckets", type=int, default=options.buckets, help="shard sets by duration, bucket1/, bucket2/, ... (1)")
    add("--seed", type=int, default=options.seed, help="of the shuffle over shards (0)")
    add("--workers", type=int, default=os.cpu_count(), help="processes (one for each core); the shards do not depend on it")
    add("--max-skipped-share", type=float, default=0.05, help="of the utterances; more is an error, at the end (0.05)")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="INPUT")

    def kind(name: str, text: str, metavar: str, **options) -> argparse.ArgumentParser:
        sub = kinds.add_parser(name, help=text, description=text, parents=[out])
        sub.add_argument("input", type=Path, metavar=metavar, **options)
        return sub

    kind("folder", "all audio files under a folder", "FOLDER")
    sub = kind("manifest", "NeMo manifests, of files or of segments (offset, duration)", "JSON", nargs="+")
    sub.add_argument("--root", type=Path, help="what relative paths are relative to (each manifest's own folder)")
    kind("cuts", "Lhotse cuts", "JSONL.GZ")
    sub = kind("librispeech", "LibriSpeech; without --parts its 960 hours of training data", "FOLDER")
    sub.add_argument("--parts", nargs="+", choices=PARTS, default=TRAIN_960)
    sub.add_argument("--lower-case", action="store_true", help="texts in lower case; they are in upper case")
    sub = kind("ami", "one split of the AMI meeting corpus", "FOLDER")
    sub.add_argument("--mic", choices=("ihm", "sdm"), default="ihm", help="headsets, or one distant microphone (ihm)")
    sub.add_argument("--split", choices=("train", "dev", "test"), default="train", help="(train)")
    sub.add_argument(
        "--partition",
        choices=("full-corpus-asr", "full-corpus", "scenario-only"),
        default="full-corpus-asr",
        help="the official data split (full-corpus-asr)",
    )
    sub.add_argument("--text", choices=("kaldi", "upper", "none"), default="kaldi", help="Lhotse's normalization (kaldi)")
    sub = kind("yodas", "YODAS or YODAS2 as on the hub: FOLDER/data/en000/audio/00000000.tar.gz, ...", "FOLDER")
    sub.add_argument("--subsets", nargs="+", default=(), help="such as en000 (all that are there)")
    return parser.parse_args()


def recipe_of(args: argparse.Namespace) -> Recipe:
    match args.kind:
        case "folder":
            return FolderRecipe(args.input)
        case "manifest":
            return ManifestRecipe(args.input, args.root)
        case "cuts":
            return CutsRecipe(args.input)
        case "librispeech":
            return LibriSpeechRecipe(args.input, tuple(args.parts), args.lower_case)
        case "ami":
            return AmiRecipe(args.input, args.mic, args.split, args.partition, args.text)
        case "yodas":
            return YodasRecipe(args.input, tuple(args.subsets))


class ProgressLines:
    """One bar for each stage of the build."""

    def __init__(self, progress: Progress):
        self.progress = progress
        self.tasks: dict[str, int] = {}

    def __call__(self, what: str, done: float, total: float) -> None:
        if what not in self.tasks:
            self.tasks[what] = self.progress.add_task(what)
        self.progress.update(self.tasks[what], completed=done, total=total)


def summary(card: dict, out: Path) -> Table:
    table = Table(title=str(out), show_header=False, title_justify="left")
    table.add_row("utterances", f"{card['utterances']:,}")
    table.add_row("hours", f"{card['hours']:,.2f}")
    table.add_row("shards", f"{len(card['shards'])} of {card['codec']}, {card['bytes'] / 1e6:,.1f} MB")
    table.add_row("long recordings", ", ".join(f"{number:,} {how}" for how, number in card["long_recordings"].items()))
    short = card["too_short"]
    table.add_row("too short", f"{short['utterances']:,} below {short['below_seconds']} s, {short['hours']:.2f} hours")
    kinds = ", ".join(f"{number} {kind}" for kind, number in card["skipped_kinds"].items()) or "none"
    table.add_row("left out", f"{len(card['skipped']):,} ({card['skipped_share']:.2%}): {kinds}")
    share, number = card["clipped_sample_share"], card["utterances_with_clipping"]
    table.add_row("clipped", f"{share:.1e} of the samples, in {number:,} utterances" if number else "nothing")
    for entry in card["skipped"][:5]:
        table.add_row("", Text(f"{entry['name']}: {entry['reason']}"))
    table.add_row("more", f"{CARD}, durations.png; check with scripts/verify_shards.py {out}")
    return table


def main() -> None:
    args = parse_arguments()
    os.environ.setdefault("TQDM_DISABLE", "1")  # Lhotse is imported later; its progress bars would run into ours
    console = Console(stderr=True)
    names = BuildOptions.__dataclass_fields__
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.2f} of {task.total:,.2f}")
    try:
        options = BuildOptions(**{name: getattr(args, name) for name in names})
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
            card = build(
                recipe_of(args), args.out, options, max(1, args.workers), args.max_skipped_share, ProgressLines(progress)
            )
    except (BuildError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on where this one stopped")
    Console().print(summary(card, args.out))


if __name__ == "__main__":
    main()
