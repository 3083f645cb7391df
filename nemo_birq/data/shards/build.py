"""Builds shard sets from the input that a recipe finds."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from filelock import FileLock, Timeout

from nemo_birq.data.shards.card import draw_durations, make_card
from nemo_birq.data.shards.listing import list_input
from nemo_birq.data.shards.pieces import pieces_name
from nemo_birq.data.shards.plan import (
    PLAN,
    SCRATCH,
    BuildOptions,
    Plan,
    ShardPlan,
    byte_versions,
    check_same_command,
    check_same_versions,
    read_plan,
)
from nemo_birq.data.shards.planning import make_plan
from nemo_birq.data.shards.segments import BuildError, Listing
from nemo_birq.data.shards.shard_job import ShardJob, build_shard
from nemo_birq.data.shards.source import shareable
from nemo_birq.data.shards.stored import StoredFolder
from nemo_birq.data.shards.workers import Workers, run_jobs
from nemo_birq.data.shards.writer import AUDIO, MANIFEST, merge_manifests, write_manifest
from nemo_birq.utils.files import DISK_FULL, file_sha256, write_json
from nemo_birq.utils.progress import Progress

CARD = "dataset_card.json"
PICTURE = "durations.png"
SHOWN = 3  # shards and utterances in an error
LOCK = ".build.lock"
_TABLES = "tables"


class LeftOutError(BuildError):
    """A complete build that left out too many utterances; ``card`` is its dataset card."""

    def __init__(self, message: str, card: dict):
        super().__init__(message)
        self.card = card


class Recipe(Protocol):
    """A kind of input."""

    def describe(self) -> dict:
        """Returns a description of the input, by which the same input is recognized. This must not take long."""

    def read(self, scratch: Path, workers: Workers, progress: Progress) -> Listing:
        """Returns the segments.

        Args:
            scratch: folder for unpacked archives, which is removed after the build.
            workers: number of processes, or a cluster.
            progress: shows long work.
        """


def build(
    recipe: Recipe,
    out: Path | str,
    options: BuildOptions,
    workers: Workers,
    max_skipped_share: float,
    progress: Progress,
) -> dict:
    """Builds shards, or continues an interrupted build; returns the dataset card.

    Args:
        recipe: kind of input.
        out: a new folder, or that of an interrupted build by the same command; a URL for a folder in an object store.
        options: options of the build.
        workers: number of processes, or a cluster; the shards do not depend on it.
        max_skipped_share: share of utterances that may be left out without an error.
        progress: shows long work.

    Raises:
        LeftOutError: more than ``max_skipped_share`` was left out, or a shard is empty. Everything is written.
        BuildError: the build cannot continue; the message names the remedy. Finished shards are kept.
        RemoteError: remote input or a remote ``out`` cannot be read or written. Finished shards are kept.
    """
    folder = StoredFolder(out)
    source = described(recipe)
    with _alone(folder), disk_errors(folder):
        card = _build(recipe, source, folder, options, workers, progress)
    _check_card(folder, card, max_skipped_share)
    return card


def plan_build(recipe: Recipe, out: Path | str, options: BuildOptions, workers: Workers, progress: Progress) -> Plan:
    """Makes only the plan of a build, or reads the existing one, so that parts can build its shards on many machines.

    Args:
        recipe: kind of input.
        out: a new folder, or that of the same command; or a URL.
        options: options of the build.
        workers: number of processes, or a cluster.
        progress: shows long work.

    Raises:
        BuildError, RemoteError: as ``build``.
    """
    folder = StoredFolder(out)
    source = described(recipe)
    with _alone(folder), disk_errors(folder):
        return _plan(recipe, source, folder, options, workers, progress)


def described(recipe: Recipe) -> dict:
    """Returns the description of a recipe's input as a plan stores it."""
    return shareable(json.loads(json.dumps(recipe.describe())))


@contextmanager
def _alone(folder: StoredFolder) -> Iterator[None]:
    """Holds the lock of the folder, which parts of a build do not take."""
    folder.local.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.local / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise BuildError(f"another process is building in {folder}: wait for it, or name another folder") from error


@contextmanager
def disk_errors(folder: StoredFolder) -> Iterator[None]:
    """Turns errors of a full disk into a BuildError with the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise BuildError(
            f"no space is left to build in {folder.local} ({error.strerror}): free some, and run the same command again; "
            "finished shards are kept"
        ) from error


def _build(
    recipe: Recipe, source: dict, folder: StoredFolder, options: BuildOptions, workers: Workers, progress: Progress
) -> dict:
    plan = _plan(recipe, source, folder, options, workers, progress)
    if (folder.local / CARD).is_file():
        folder.remove(SCRATCH)
        return json.loads((folder.local / CARD).read_text(encoding="utf-8"))
    records = build_shards(plan, plan.shards, folder, workers, progress)
    return _finish(plan, records, folder)


def _plan(
    recipe: Recipe, source: dict, folder: StoredFolder, options: BuildOptions, workers: Workers, progress: Progress
) -> Plan:
    plan = find_plan(folder)
    if plan is not None:
        check_same_build(folder, plan, source, options)
        return plan
    _check_new(folder, options)
    claim(folder, source, options)
    if folder.url and source["kind"] == "yodas" and not isinstance(workers, int):
        raise BuildError(
            f"the machines of a cluster share no disk for archives that are unpacked for {folder}: leave out --ray, or name "
            "a folder that they share"
        )
    scratch = folder.local / SCRATCH
    listing = recipe.read(scratch / "unpacked", workers, progress)
    for left in scratch.glob(f"{_TABLES}*"):  # left by a process that was killed
        shutil.rmtree(left)
    scratch.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=scratch, prefix=_TABLES) as tables:
        listed = list_input(listing.batches, Path(tables), options, workers, progress)
        plan = make_plan(source, options, listed, dict(sorted(listing.not_taken.items())), folder.local)
    write_json(folder.local / PLAN, plan._asdict())
    folder.send(map(pieces_name, plan.shards))
    folder.send([PLAN])
    return plan


def find_plan(folder: StoredFolder) -> Plan | None:
    """Returns the plan of an earlier build in this folder, if any; also copies its card, if any, to the local folder."""
    folder.fetch([PLAN, CARD])
    return read_plan(folder.local)


def _check_new(folder: StoredFolder, options: BuildOptions) -> None:
    """Raises a BuildError if a folder without a plan has files that a build would write."""
    holds = sorted(name for name in folder.tops() if re.fullmatch(r"audio_.*\.tar|bucket.*", name))
    if options.single_files:
        holds = holds or sorted({AUDIO, MANIFEST} & folder.tops())
    if holds:
        what = f"{AUDIO} or {MANIFEST}" if holds[0] in (AUDIO, MANIFEST) else "shards"
        raise BuildError(f"{folder} holds {what}, but no {PLAN} of this command: name another folder")


def claim(folder: StoredFolder, source: dict, options: BuildOptions) -> None:
    """Marks a remote folder as that of this command. This also tests early that it can be written.

    Raises:
        BuildError: another command has begun in this folder.
        RemoteError: the folder cannot be written.
    """
    mine = {"source": source, "options": asdict(options), "versions": byte_versions()}
    found = folder.claim(f"{SCRATCH}/begun.json", json.dumps(mine, sort_keys=True).encode())
    if found is not None and json.loads(found) != json.loads(json.dumps(mine)):
        raise BuildError(
            f"another command, or another version, has begun to build in {folder}: name another folder; or, if that "
            f"build is abandoned, remove {folder}/{SCRATCH} and run this command again"
        )


def check_same_build(folder: StoredFolder, plan: Plan, source: dict, options: BuildOptions) -> None:
    """Checks that the plan of a build belongs to this command.

    Raises:
        BuildError: the plan has other input or options, or the build is unfinished and has other versions.
        RemoteError: the build is unfinished, and its folder cannot be written.
    """
    check_same_command(folder, plan, source, options)
    if (folder.local / CARD).is_file():
        return
    check_same_versions(folder, plan)
    claim(folder, source, options)
    if folder.url and source["kind"] == "yodas" and not (folder.local / SCRATCH / "unpacked").is_dir():
        raise BuildError(
            f"the archives for {folder} were unpacked by --plan on another machine, whose disk this machine does not share: "
            "build all parts there, or in a folder that the machines share"
        )


def build_shards(
    plan: Plan, shards: list[ShardPlan], folder: StoredFolder, workers: Workers, progress: Progress
) -> list[dict]:
    """Builds those shards of a plan that are not finished; returns the records of all shards in their order."""
    options = plan.options
    how = options["codec"], options["sample_rate"], options["single_files"]
    jobs = [ShardJob(str(folder), shard, *how) for shard in shards]
    advance = progress.start("hours of audio", sum(shard.seconds for shard in shards) / 3600)
    records = dict(run_jobs(build_shard, jobs, workers, lambda seconds: advance(seconds / 3600)))
    return [records[number] for number in range(len(jobs))]


def _finish(plan: Plan, records: list[dict], folder: StoredFolder) -> dict:
    out = folder.local
    files = {name: digest for record in records for name, digest in record["files"].items()}
    if plan.options["single_files"]:
        manifests = [write_manifest(out, (line for record in records for line in record["lines"]))]
    else:
        of_shards = [name for name in files if name.endswith(".json")]
        folder.fetch(of_shards)  # other machines have built some
        sizes = Counter(shard.folder for shard in plan.shards)
        manifests = [merge_manifests(out / name, number) for name, number in sizes.items()]
        folder.drop(of_shards)
    whole = {path.relative_to(out).as_posix(): file_sha256(path) for path in manifests}
    card = make_card(plan, records, files | whole)
    draw_durations(card, out / PICTURE)
    write_json(out / CARD, card)
    folder.send([*whole, PICTURE])
    folder.send([CARD])
    folder.drop([*whole, PICTURE])
    folder.remove(SCRATCH)
    return card


def _check_card(out: StoredFolder, card: dict, max_skipped_share: float) -> None:
    empty = [name for name, entry in card["shards"].items() if not entry["utterances"]]
    first = "; ".join(f"{entry['name']}: {entry['reason']}" for entry in examples(card["skipped"], SHOWN))
    if empty:
        raise LeftOutError(
            f"{len(empty)} shards are empty, because no utterance of theirs can be used ({', '.join(empty[:SHOWN])}): "
            f"{first}. All reasons are in {out}/{CARD}; build with fewer shards in another folder",
            card,
        )
    if card["skipped_share"] > max_skipped_share:
        kinds = ", ".join(f"{count} {kind}" for kind, count in card["skipped_kinds"].items())
        raise LeftOutError(
            f"{card['skipped_share']:.1%} of the utterances were left out ({kinds}), more than max_skipped_share="
            f"{max_skipped_share}: {first}. The shards are complete and all reasons are in {out}/{CARD}; repair the input "
            "and build again in another folder, or use the shards as they are",
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
