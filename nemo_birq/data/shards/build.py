"""Builds shard sets from what a recipe finds."""

import errno
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from filelock import FileLock, Timeout

from nemo_birq.data.shards.card import draw_durations, make_card
from nemo_birq.data.shards.listing import list_input
from nemo_birq.data.shards.plan import (
    PLAN,
    SCRATCH,
    BuildOptions,
    Plan,
    ShardPlan,
    check_same_command,
    check_same_versions,
    read_plan,
)
from nemo_birq.data.shards.planning import make_plan
from nemo_birq.data.shards.segments import BuildError, Listing
from nemo_birq.data.shards.shard_job import ShardJob, build_shard
from nemo_birq.data.shards.source import shareable
from nemo_birq.data.shards.workers import run_jobs
from nemo_birq.data.shards.writer import AUDIO, MANIFEST, merge_manifests, write_manifest
from nemo_birq.utils.files import file_sha256, write_json
from nemo_birq.utils.progress import Progress

CARD = "dataset_card.json"
SHOWN = 3  # shards and utterances in an error
LOCK = ".build.lock"
_TABLES = "tables"


class LeftOutError(BuildError):
    """A complete build that left out too much; ``card`` is its dataset card."""

    def __init__(self, message: str, card: dict):
        super().__init__(message)
        self.card = card


class Recipe(Protocol):
    """A kind of input."""

    def describe(self) -> dict:
        """What it reads, to recognize the same input again: no work that takes long."""

    def read(self, scratch: Path, workers: int, progress: Progress) -> Listing:
        """Returns the segments.

        Args:
            scratch: folder to unpack archives to, which is removed after the build.
            workers: processes.
            progress: shows long work.
        """


def build(
    recipe: Recipe, out: Path, options: BuildOptions, workers: int, max_skipped_share: float, progress: Progress
) -> dict:
    """Builds shards, or goes on with a build that was interrupted; gives the dataset card.

    Args:
        out: a new folder, or that of an interrupted build by the same command.
        workers: processes; the shards do not depend on it.
        max_skipped_share: of the utterances; more than that is an error, once everything is written.

    Raises:
        LeftOutError: more was left out than ``max_skipped_share``, or a shard is empty. Everything is written.
        BuildError: with what to do about it. What is finished stays.
    """
    source = described(recipe)
    with _alone(out), disk_errors(out):
        card = _build(recipe, source, out, options, workers, progress)
    _check_card(out, card, max_skipped_share)
    return card


def plan_build(recipe: Recipe, out: Path, options: BuildOptions, workers: int, progress: Progress) -> Plan:
    """Makes the plan of a build alone, or reads the one that is there, so that parts can build its shards on many machines.

    Args:
        out: a new folder, or that of the same command.

    Raises:
        BuildError: with what to do about it.
    """
    source = described(recipe)
    with _alone(out), disk_errors(out):
        return _plan(recipe, source, out, options, workers, progress)


def described(recipe: Recipe) -> dict:
    """Returns the description of a recipe's input as a plan holds it."""
    return shareable(json.loads(json.dumps(recipe.describe())))


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Holds the lock of the folder, which parts of a build do not take."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise BuildError(f"another process builds in {out} right now; wait for it, or give another folder") from error


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turns errors of a full disk into a BuildError with what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise
        raise BuildError(
            f"no space left while building in {out} ({error.strerror}): free some, and run the same command again; shards "
            "that are finished are kept"
        ) from error


def _build(recipe: Recipe, source: dict, out: Path, options: BuildOptions, workers: int, progress: Progress) -> dict:
    plan = _plan(recipe, source, out, options, workers, progress)
    if (out / CARD).is_file():
        shutil.rmtree(out / SCRATCH, ignore_errors=True)
        return json.loads((out / CARD).read_text(encoding="utf-8"))
    records = build_shards(plan, plan.shards, out, workers, progress)
    return _finish(plan, records, out)


def _plan(recipe: Recipe, source: dict, out: Path, options: BuildOptions, workers: int, progress: Progress) -> Plan:
    plan = read_plan(out)
    if plan is not None:
        check_same_build(out, plan, source, options)
        return plan
    if any(out.glob("audio_*.tar")) or any(out.glob("bucket*")):
        raise BuildError(f"{out} holds shards, but no {PLAN} of this script: give another folder")
    if options.single_files and ((out / AUDIO).exists() or (out / MANIFEST).exists()):
        raise BuildError(f"{out} holds {AUDIO} or {MANIFEST}, but no {PLAN} of this script: give another folder")
    listing = recipe.read(out / SCRATCH / "unpacked", workers, progress)
    for left in (out / SCRATCH).glob(f"{_TABLES}*"):  # by a process that was killed
        shutil.rmtree(left)
    (out / SCRATCH).mkdir(exist_ok=True)
    with TemporaryDirectory(dir=out / SCRATCH, prefix=_TABLES) as tables:
        listed = list_input(listing.batches, Path(tables), options, workers, progress)
        plan = make_plan(source, options, listed, dict(listing.not_taken), out)
    write_json(out / PLAN, plan._asdict())
    return plan


def check_same_build(out: Path, plan: Plan, source: dict, options: BuildOptions) -> None:
    """Raises a BuildError where other input or options, or before the end other versions, made the plan."""
    check_same_command(out, plan, source, options)
    if not (out / CARD).is_file():
        check_same_versions(out, plan)


def build_shards(plan: Plan, shards: list[ShardPlan], out: Path, workers: int, progress: Progress) -> list[dict]:
    """Builds shards of a plan, but those that are finished; gives the records of all, in their order."""
    options = plan.options
    how = options["codec"], options["sample_rate"], options["single_files"]
    jobs = [ShardJob(str(out), shard, *how) for shard in shards]
    advance = progress.start("hours of audio", sum(shard.seconds for shard in shards) / 3600)
    records = dict(run_jobs(build_shard, jobs, workers, lambda seconds: advance(seconds / 3600)))
    return [records[number] for number in range(len(jobs))]


def _finish(plan: Plan, records: list[dict], out: Path) -> dict:
    files = {name: digest for record in records for name, digest in record["files"].items()}
    if plan.options["single_files"]:
        manifests = [write_manifest(out, (line for record in records for line in record["lines"]))]
    else:
        sizes = Counter(shard.folder for shard in plan.shards)
        manifests = [merge_manifests(out / folder, number) for folder, number in sizes.items()]
    files |= {path.relative_to(out).as_posix(): file_sha256(path) for path in manifests}
    card = make_card(plan, records, files)
    draw_durations(card, out / "durations.png")
    write_json(out / CARD, card)
    shutil.rmtree(out / SCRATCH)
    return card


def _check_card(out: Path, card: dict, max_skipped_share: float) -> None:
    empty = [name for name, entry in card["shards"].items() if not entry["utterances"]]
    first = "; ".join(f"{entry['name']}: {entry['reason']}" for entry in examples(card["skipped"], SHOWN))
    if empty:
        raise LeftOutError(
            f"{len(empty)} shards are empty, since no utterance planned for them can be used ({', '.join(empty[:SHOWN])}): "
            f"{first}. All reasons are in {out / CARD}; build with fewer shards in another folder",
            card,
        )
    if card["skipped_share"] > max_skipped_share:
        kinds = ", ".join(f"{count} {kind}" for kind, count in card["skipped_kinds"].items())
        raise LeftOutError(
            f"{card['skipped_share']:.1%} of the utterances were left out ({kinds}), more than max_skipped_share="
            f"{max_skipped_share}: {first}. The shards are complete and all reasons are in {out / CARD}; mend the input and "
            "build again in another folder, or use the shards as they are",
            card,
        )


def examples(skipped: list[dict], number: int) -> list[dict]:
    """Returns the first entries of ``skipped`` in a card, one of each kind before a second of any."""
    seen: Counter = Counter()
    ranks = []
    for entry in skipped:
        ranks.append(seen[entry["kind"]])
        seen[entry["kind"]] += 1
    return [skipped[i] for i in sorted(range(len(skipped)), key=ranks.__getitem__)[:number]]
