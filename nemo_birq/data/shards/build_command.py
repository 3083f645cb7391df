"""``birq make-shards``: tar shards in NeMo's format, with one command for each kind of input."""

import os
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nemo_birq.command_line import options
from nemo_birq.command_line.command import PATH, PATH_OR_URL, SETTINGS, Group
from nemo_birq.data.bandwidth import in_words
from nemo_birq.data.shards.audio import CODECS
from nemo_birq.data.shards.build import CARD, LeftOutError, Recipe, build, examples, plan_build
from nemo_birq.data.shards.parts import Part, build_part
from nemo_birq.data.shards.plan import BuildOptions
from nemo_birq.data.shards.ray_cluster import choose_workers
from nemo_birq.data.shards.recipes.ami import AmiRecipe
from nemo_birq.data.shards.recipes.cuts import CutsRecipe
from nemo_birq.data.shards.recipes.folder import FolderRecipe
from nemo_birq.data.shards.recipes.librispeech import PARTS, TRAIN_960, LibriSpeechRecipe
from nemo_birq.data.shards.recipes.manifest import ManifestRecipe
from nemo_birq.data.shards.recipes.remote_folder import RemoteFolderRecipe
from nemo_birq.data.shards.recipes.yodas import YodasRecipe
from nemo_birq.data.shards.writer import MANIFEST
from nemo_birq.utils.progress import ProgressBars
from nemo_birq.utils.terminal import Terminal
from nemo_birq.utils.urls import without_secrets

DEFAULT = BuildOptions()
SUFFIXES_SHOWN = 10
OUTPUT_OPTIONS = (
    options.out_option(
        "Folder for shards and manifests, or its URL: a new folder, or that of an earlier run of the same command.",
        required=True,
        type=PATH_OR_URL,
    ),
    options.option("--codec", type=click.Choice(CODECS), default=DEFAULT.codec, help="Format of the members."),
    options.option("--sample-rate", type=int, default=DEFAULT.sample_rate, help="Sample rate of the members, in Hz."),
    options.option(
        "--min-duration", type=float, default=DEFAULT.min_duration, help="Seconds; shorter utterances are left out."
    ),
    options.option("--max-duration", type=float, default=DEFAULT.max_duration, help="Seconds; longer utterances are cut."),
    options.option("--shard-hours", type=float, default=DEFAULT.shard_hours, help="Approximate hours of audio in a shard."),
    options.option(
        "--num-shards", type=int, help="Number of shards (of each bucket); at least GPUs times workers of the training."
    ),
    options.option(
        "--buckets", type=int, default=DEFAULT.buckets, help="Number of shard sets by duration: bucket1/, bucket2/, ..."
    ),
    options.option(
        "--files",
        "single_files",
        is_flag=True,
        help=f"Write single files and {MANIFEST} instead of shards, for example for validation sets.",
    ),
    options.option(
        "--plan",
        "only_plan",
        is_flag=True,
        help="Write only the plan, for --part on many machines. Run the command without either option at the end.",
    ),
    options.option("--part", help="Build one part of the planned shards, such as 3/16 in a job array.", metavar="I/N"),
    options.ray_option(
        "Build on a Ray cluster, with a task for each shard. Without an address: the running cluster, or a local one."
    ),
    options.seed_option("Seed of the shuffle over shards."),
    options.workers_option(os.cpu_count(), "Number of processes; the shards do not depend on it."),
    options.option(
        "--max-skipped-share", type=float, default=0.05, help="Share of utterances that may be left out without an error."
    ),
)


def output_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that all kinds of input share."""
    for add in reversed(OUTPUT_OPTIONS):
        function = add(function)
    return function


def summary(card: dict, out: Path | str) -> Table:
    """Returns a summary of a build, from its card."""
    table = Table(title=without_secrets(out), show_header=False, title_justify="left")
    table.add_row("utterances", f"{card['utterances']:,}")
    table.add_row("hours", f"{card['hours']:,.2f}")
    made = ("shards", len(card["shards"])) if card["shards"] else ("files", card["utterances"])
    table.add_row(made[0], f"{made[1]:,} of {card['codec']}, {card['bytes'] / 1e6:,.1f} MB")
    table.add_row("recordings", ", ".join(f"{number:,} {how}" for how, number in card["long_recordings"].items()))
    short = card["too_short"]
    table.add_row("too short", f"{short['utterances']:,} below {short['below_seconds']} s, {short['hours']:.2f} hours")
    kinds = ", ".join(f"{number} {kind}" for kind, number in card["skipped_kinds"].items()) or "none"
    table.add_row("left out", f"{len(card['skipped']):,} ({card['skipped_share']:.2%}): {kinds}")
    share, number = card["clipped_sample_share"], card["utterances_with_clipping"]
    table.add_row("clipped", f"{share:.1e} of the samples, in {number:,} utterances" if number else "nothing")
    for kind, total in card.get("remedies", {}).items():
        first = next(entry for entry in card["remedied"] if entry["kind"] == kind)
        table.add_row(kind, Text(f"{total['utterances']:,} utterances, {total['hours']:.2f} hours, such as {first['name']}"))
    hours = {float(hz): amount for hz, amount in card.get("bandwidth_hours", {}).items()}
    if narrow := in_words(hours, card["sample_rate"] / 2):
        table.add_row("narrow-band", Text(narrow))
    for entry in examples(card["skipped"], 5):
        table.add_row("", Text(f"{entry['name']}: {entry['reason']}"))
    if others := card.get("not_taken"):  # earlier versions did not count them
        suffixes = ", ".join(f"{number:,} {suffix}" for suffix, number in Counter(others).most_common(SUFFIXES_SHOWN))
        more = ", ..." if len(others) > SUFFIXES_SHOWN else ""
        table.add_row("not taken", Text(f"{sum(others.values()):,} files that are no known audio: {suffixes}{more}"))
    table.add_row("more", f"{CARD}, durations.png; check with birq verify-shards {out}")
    if not card["shards"]:
        table.add_row("manifest", f"{out}/{MANIFEST}")
    return table


def training_keys(card: dict, out: Path | str) -> list[str]:
    """Returns the arguments of a training with the output as training shards, or as single files for validation."""
    if not card["shards"]:
        return ["To validate on these files:", f"  model.validation_ds.manifest_filepath={out}/{MANIFEST}"]
    # Each bucket has a folder. Paths are joined as text, because the output may be a URL.
    shards = Counter(f"{out}/{name}".rpartition("/")[0] for name in card["shards"])
    patterns = {
        "manifest_filepath": [f"{at}/sharded_manifests/manifest__OP_0..{n - 1}_CL_.json" for at, n in shards.items()],
        "tarred_audio_filepaths": [f"{at}/audio__OP_0..{n - 1}_CL_.tar" for at, n in shards.items()],
    }
    values = {key: names[0] if len(names) == 1 else f"[[{'],['.join(names)}]]" for key, names in patterns.items()}
    arguments = [shlex.quote(f"model.train_ds.{key}={value}") for key, value in values.items()]
    return ["To train on these shards:", *(f"  {argument}" for argument in arguments)]


class AmountColumn(ProgressColumn):
    """Shows the amount that is done, and the total if it is known."""

    def render(self, task: Task) -> Text:
        of_all = "" if task.total is None else f" of {task.total:,.2f}"
        return Text(f"{task.completed:,.2f}{of_all}")


def make(
    recipe: Recipe,
    out: Path | str,
    workers: int,
    max_skipped_share: float,
    only_plan: bool,
    part: str | None,
    ray: str | None,
    **determining: Any,
) -> None:
    """Builds the shards of a recipe, only plans them, or builds one part, with a progress bar; prints a summary.

    Args:
        recipe: kind of input.
        out: folder of the output, or its URL.
        workers: number of processes.
        max_skipped_share: share of utterances that may be left out without an error.
        only_plan: write only the plan.
        part: part to build, such as "3/16"; None: all.
        ray: address of a Ray cluster; None: processes of this machine.
        determining: the fields of ``BuildOptions``.
    """
    chosen = None if part is None else Part.parse(part)
    if chosen and only_plan:
        raise ValueError("--plan and --part exclude each other: run the command with --plan once, then with each --part")
    if chosen and ray:
        raise ValueError("--part and --ray both distribute the shards over machines: give one of them")
    os.environ.setdefault("TQDM_DISABLE", "1")  # hides the progress bars of Lhotse, which is imported later
    columns = TextColumn("{task.description}"), BarColumn(), AmountColumn()
    times = TimeElapsedColumn(), TimeRemainingColumn()
    try:
        with ProgressBars(*columns, *times, console=Terminal(stderr=True)) as progress:
            how = recipe, out, BuildOptions(**determining), choose_workers(workers, ray)
            if only_plan:
                plan = plan_build(*how, progress)
            elif chosen:
                result = build_part(*how, chosen, progress)
            else:
                card = build(*how, max_skipped_share, progress)
    except LeftOutError as error:
        Terminal().print(summary(error.card, out))
        raise
    except KeyboardInterrupt:
        click.echo("interrupted; the same command resumes the build", err=True)
        sys.exit(128 + signal.SIGINT)
    if only_plan:
        hours = sum(shard.seconds for shard in plan.shards) / 3600
        click.echo(
            f"planned {len(plan.shards):,} shards, {hours:,.2f} hours, in {out}. Next, run --part 1/N to N/N instead of "
            "--plan on any machines, then the command without either"
        )
    elif chosen:
        state = (
            "the whole build was already finished"
            if result.is_complete
            else "finished; run the command without --part after all parts"
        )
        click.echo(f"part {part}: {result.shards:,} shards, {result.hours:,.2f} hours, {state}")
    else:
        Terminal().print(summary(card, out))
        Terminal().print("\n".join(training_keys(card, out)), soft_wrap=True)  # without line breaks, to be copied


@click.group("make-shards", cls=Group, context_settings=SETTINGS)
def make_shards() -> None:
    """Builds tar shards in NeMo's format from audio of any kind. See docs/data.md.

        birq make-shards folder /data/podcasts --out /data/shards --codec opus
        birq make-shards manifest train.json --out /data/shards --num-shards 64
        birq make-shards librispeech /data/LibriSpeech --out /data/librispeech_960 --workers 32
        birq make-shards ami /data/ami --mic sdm --split train --out /data/ami_sdm_train
        birq make-shards yodas /data/yodas2 --subsets en000 --out /data/yodas_en --buckets 4
        birq make-shards manifest dev.json --out /data/dev --files
        birq make-shards folder s3://bucket/podcasts --out s3://bucket/shards

    The same command resumes an interrupted build. On many machines with a shared folder, run it with --plan once, with
    --part 1/16 to 16/16 in any order, then without either option, which checks all shards and writes manifest and card.
    """


@make_shards.command("folder")
@options.argument("input", "folder of audio files, or its URL in an object store", type=PATH_OR_URL, metavar="FOLDER")
@output_options
def folder(input: Path | str, **output: Any) -> None:
    """Reads all audio files under a folder."""
    make(FolderRecipe(input) if isinstance(input, Path) else RemoteFolderRecipe(input), **output)


@make_shards.command("manifest")
@options.argument("input", "NeMo manifests, or their URLs", type=PATH_OR_URL, nargs=-1, required=True, metavar="JSON...")
@options.option("--root", type=PATH_OR_URL, help="Folder of relative paths; default: the folder of each manifest.")
@output_options
def manifest(input: tuple[Path | str, ...], root: Path | str | None, **output: Any) -> None:
    """Reads NeMo manifests.

    A line names an audio file or its URL, or a segment of it (offset, duration).
    """
    make(ManifestRecipe(list(input), root), **output)


@make_shards.command("cuts")
@options.argument("input", "Lhotse cuts", type=PATH, metavar="JSONL.GZ")
@output_options
def cuts(input: Path, **output: Any) -> None:
    """Reads Lhotse cuts."""
    make(CutsRecipe(input), **output)


@make_shards.command("librispeech")
@options.argument("input", "LibriSpeech, with a folder for each part", type=PATH, metavar="FOLDER")
@options.several_option(
    "--parts", f"Parts, one or more of {', '.join(PARTS)}.", type=click.Choice(PARTS), default=TRAIN_960, metavar="PART..."
)
@options.option("--lower-case", is_flag=True, help="Convert the texts, which are in upper case, to lower case.")
@output_options
def librispeech(input: Path, parts: tuple[str, ...], lower_case: bool, **output: Any) -> None:
    """Reads LibriSpeech.

    Without --parts, it reads the 960 hours of training data.
    """
    make(LibriSpeechRecipe(input, parts, lower_case), **output)


@make_shards.command("ami")
@options.argument("input", "the AMI corpus as lhotse downloads it", type=PATH, metavar="FOLDER")
@options.option("--mic", type=click.Choice(("ihm", "sdm")), default="ihm", help="Headsets, or one distant microphone.")
@options.option("--split", type=click.Choice(("train", "dev", "test")), default="train", help="Split to build.")
@options.option(
    "--partition", type=click.Choice(("full-corpus-asr", "full-corpus", "scenario-only")), default="full-corpus-asr",
    help="The official data split.",
)  # fmt: skip
@options.option("--text", type=click.Choice(("kaldi", "upper", "none")), default="kaldi", help="Lhotse's normalization.")
@output_options
def ami(input: Path, mic: str, split: str, partition: str, text: str, **output: Any) -> None:
    """Reads one split of the AMI meeting corpus."""
    make(AmiRecipe(input, mic, split, partition, text), **output)


@make_shards.command("yodas")
@options.argument("input", "folder with data/en000/audio/00000000.tar.gz, ...", type=PATH, metavar="FOLDER")
@options.several_option("--subsets", "Subsets, such as en000 en001; default: all.")
@output_options
def yodas(input: Path, subsets: tuple[str, ...], **output: Any) -> None:
    """Reads YODAS or YODAS2 in the layout of the hub."""
    make(YodasRecipe(input, subsets), **output)
