"""The plan of a build: which piece of which file goes into which shard.

It is made once, from headers alone, and written down under ``.build`` in the output folder. Each shard then is a job of its
own, which depends on the plan and on nothing else: that makes a build the same with any number of processes, and lets an
interrupted one go on.
"""

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

import nemo_birq
from nemo_birq.data.shards.audio import CODECS, OPUS_RATES
from nemo_birq.data.shards.cut import Piece, cut
from nemo_birq.data.shards.headers import Header
from nemo_birq.data.shards.recipes.inputs import real_path
from nemo_birq.data.shards.segments import BuildError, Listing, Segment, Skipped
from nemo_birq.data.shards.source import shareable
from nemo_birq.utils.files import write_json

SCRATCH = ".build"
PLAN = "build_plan.json"
MAX_NAME_LENGTH = 150  # characters of a member's name; with a suffix what file systems take, even of four bytes each in part


@dataclass(frozen=True)
class BuildOptions:
    """What determines the shards, beside their input."""

    codec: str = "flac"
    sample_rate: int = 16000
    """Hz."""
    min_duration: float = 0.1
    """Seconds; shorter utterances are left out."""
    max_duration: float = 30.0
    """Seconds; longer ones are cut."""
    shard_hours: float = 1.0
    """Hours of audio in a shard, roughly; without effect where ``num_shards`` is given."""
    num_shards: int | None = None
    """In each bucket."""
    buckets: int = 1
    """Shard sets of utterances of similar length."""
    seed: int = 0
    """Of the shuffle over shards."""
    single_files: bool = False
    """Single files and one manifest in place of shards."""

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise BuildError(f"codec {self.codec} is unknown; there are {', '.join(CODECS)}")
        if self.codec == "opus" and self.sample_rate not in OPUS_RATES:
            raise BuildError(f"opus has no sample rate of {self.sample_rate} Hz, only {', '.join(map(str, OPUS_RATES))}")
        if not 0 < self.min_duration < self.max_duration:
            raise BuildError(f"min_duration {self.min_duration} s must lie between 0 and max_duration {self.max_duration} s")
        for name in ("sample_rate", "shard_hours", "buckets", "num_shards"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise BuildError(f"{name} is {value} and must be above 0")

        if self.single_files and (self.num_shards is not None or self.buckets > 1):
            key = "buckets" if self.buckets > 1 else "num_shards"
            raise BuildError(f"{key} is {getattr(self, key)}, but single files have no shards: leave out {key}")

    @property
    def suffix(self) -> str:
        return f".{self.codec}"


class ShardPlan(NamedTuple):
    """One shard to be built."""

    folder: str
    """Of the shard set, relative to the output folder: "." or "bucket1", ..."""
    shard_id: int
    utterances: int
    seconds: float

    @property
    def file_name(self) -> str:
        """Of its pieces, and of the record of it once it is built."""
        return f"{'' if self.folder == '.' else self.folder + '_'}{self.shard_id:06d}.jsonl"


class Plan(NamedTuple):
    """A whole build."""

    source: dict
    """Input of the command, see ``source.shareable``."""
    options: dict
    shards: list[ShardPlan]
    skipped: list[Skipped]
    too_short: dict
    """Utterances below the least duration: how many, and how many hours."""
    cuts: dict
    """How many pieces were cut in which way."""
    bucket_limits: list[float]
    """The longest duration in each bucket, seconds."""
    not_taken: dict
    """Files of the input that are no audio, see ``Listing``."""
    versions: dict
    """Versions that the bytes of the shards depend on; empty in plans of earlier versions."""


def make_plan(
    source: dict,
    options: BuildOptions,
    listing: Listing,
    headers: dict[str, Header | Skipped],
) -> tuple[Plan, list[list[tuple[str, Piece]]]]:
    """The plan, and for each of its shards the pieces with the names of their members.

    Raises:
        BuildError: there is nothing to build from, or less than one utterance for a shard.
    """
    skipped = list(listing.skipped)
    cuts: Counter = Counter()
    pieces = list(_pieces(listing.segments, headers, options.max_duration, cuts, skipped))
    kept = [piece for piece in pieces if piece.seconds >= options.min_duration]
    if not kept:
        reasons = "; ".join(f"{entry.name}: {entry.reason}" for entry in skipped[:3])
        inputs = ", ".join(source["input"])
        raise BuildError(f"nothing to build from in {inputs}: {len(skipped)} unusable, {len(pieces)} too short. {reasons}")
    too_short = sum(piece.seconds for piece in pieces) - sum(piece.seconds for piece in kept)
    names = member_names([(piece.name, piece.identity) for piece in kept], options.suffix)
    if len(set(names)) < len(names):
        raise BuildError(f"two members would be called {Counter(names).most_common(1)[0][0]}; rename one of their files")
    named = sorted(zip(names, kept, strict=True), key=lambda pair: pair[0])
    random.Random(options.seed).shuffle(named)

    shards, contents, limits = [], [], []
    for number, bucket in enumerate(_buckets(named, options.buckets), start=1):
        folder = "." if options.buckets == 1 else f"bucket{number}"
        limits.append(round(max(piece.seconds for _, piece in bucket), 3))
        for shard_id, dealt in enumerate(_deal(bucket, options, folder)):
            shards.append(ShardPlan(folder, shard_id, len(dealt), sum(piece.seconds for _, piece in dealt)))
            contents.append(dealt)
    dropped = {"utterances": len(pieces) - len(kept), "hours": too_short / 3600}
    found = shards, skipped, dropped, dict(sorted(cuts.items())), limits, dict(listing.not_taken), byte_versions()
    return Plan(source, asdict(options), *found), contents


def _pieces(
    segments: list[Segment], headers: dict[str, Header | Skipped], longest: float, cuts: Counter, skipped: list[Skipped]
) -> Iterator[Piece]:
    seen: set[str] = set()
    aliases = _aliases(headers)
    first: dict[tuple, Segment] = {}
    for segment in segments:
        header = headers[segment.path]
        same = segment
        if segment.path in aliases:
            same = first.setdefault((aliases[segment.path], segment.start, segment.duration, segment.channels), segment)
        if segment.identity in seen:
            skipped.append(Skipped(segment.identity, "duplicate", "an utterance of the same name was there before"))
        elif same.path != segment.path:
            skipped.append(Skipped(segment.identity, "duplicate", f"by a link, it is the audio of {same.identity}"))
        elif isinstance(header, Skipped):
            skipped.append(header._replace(name=segment.identity))
        else:
            found = cut(segment, header, longest, cuts)
            if isinstance(found, Skipped):
                skipped.append(found)
            else:
                yield from found
        seen.add(segment.identity)


def _aliases(paths: Iterable[str]) -> dict[str, str]:
    """Returns the file behind each path that is not the only one to its file, because of links."""
    real = {path: real_path(path) for path in paths}
    counts = Counter(real.values())
    return {path: target for path, target in real.items() if counts[target] > 1}


def _buckets(named: list[tuple[str, Piece]], number: int) -> list[list[tuple[str, Piece]]]:
    """Buckets with equally many hours, the shortest utterances first; the order inside stays."""
    seconds = np.array([piece.seconds for _, piece in named])
    by_length = np.argsort(seconds, kind="stable")
    hours = np.cumsum(seconds[by_length])
    bucket = np.empty(len(named), dtype=int)
    bucket[by_length] = np.minimum((hours - seconds[by_length] / 2) * number // hours[-1], number - 1)
    buckets = [[pair for pair, where in zip(named, bucket, strict=True) if where == i] for i in range(number)]
    if not all(buckets):
        raise BuildError(f"{len(named)} utterances are too few for {number} buckets; ask for fewer")
    return buckets


def _deal(bucket: list[tuple[str, Piece]], options: BuildOptions, folder: str) -> list[list[tuple[str, Piece]]]:
    hours = sum(piece.seconds for _, piece in bucket) / 3600
    number = options.num_shards or max(1, round(hours / options.shard_hours))
    if number > len(bucket):
        where = "" if folder == "." else f" of {folder}"
        raise BuildError(f"{len(bucket)} utterances{where} cannot fill {number} shards; ask for fewer")
    return [bucket[shard_id::number] for shard_id in range(number)]


def write_plan(out: Path, plan: Plan, contents: list[list[tuple[str, Piece]]]) -> None:
    """Writes the plan; the file that says so comes last."""
    scratch = out / SCRATCH
    (scratch / "pieces").mkdir(parents=True, exist_ok=True)
    (scratch / "records").mkdir(exist_ok=True)
    for shard, dealt in zip(plan.shards, contents, strict=True):
        with open(scratch / "pieces" / shard.file_name, "w", encoding="utf-8") as file:
            file.writelines(json.dumps([member, vars(piece)]) + "\n" for member, piece in dealt)
    write_json(out / PLAN, plan._asdict())


def read_plan(out: Path) -> Plan | None:
    """The plan of an earlier build in this folder."""
    if not (out / PLAN).is_file():
        return None
    written_later = {"not_taken": {}, "versions": {}}  # which plans of earlier versions lack, as they do single_files
    plan = Plan(**written_later | json.loads((out / PLAN).read_text(encoding="utf-8")))
    shards, skipped = [ShardPlan(*shard) for shard in plan.shards], [Skipped(*entry) for entry in plan.skipped]
    options = plan.options | {"single_files": plan.options.get("single_files", False)}
    return plan._replace(source=shareable(plan.source), options=options, shards=shards, skipped=skipped)


def read_pieces(out: Path, shard: ShardPlan) -> Iterator[tuple[str, Piece]]:
    """The pieces of a shard with the names of their members."""
    with open(out / SCRATCH / "pieces" / shard.file_name, encoding="utf-8") as file:
        for line in file:
            member, fields = json.loads(line)
            if fields["channels"] is not None:
                fields["channels"] = tuple(fields["channels"])
            yield member, Piece(**fields)


def check_same_command(out: Path, plan: Plan, source: dict, options: BuildOptions) -> None:
    """Raises a BuildError that names how this command differs from the one that began to build in this folder."""
    before = plan.source | plan.options
    now = json.loads(json.dumps(source | asdict(options)))
    differences = [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if differences:
        raise BuildError(
            f"{out} holds a build with other input or options: {'; '.join(differences)}. Give the command of that build to "
            "go on with it, or another output folder"
        )


def byte_versions() -> dict[str, str]:
    """Returns the versions that the bytes of shards depend on."""
    return {
        "nemo_birq": nemo_birq.__version__,
        "libsndfile": soundfile.__libsndfile_version__,
        "soxr": soxr.__version__,
    }


def check_same_versions(out: Path, plan: Plan) -> None:
    """Raises a BuildError where other versions than now made the plan of a build that is not finished."""
    before = plan.versions
    differences = [f"{k} was {before[k]} and is {now}" for k, now in byte_versions().items() if before.get(k, now) != now]
    if differences:
        raise BuildError(
            f"{out} holds a build by other versions: {'; '.join(differences)}. Its shards would not all be made alike: go "
            "on with the versions that it began with, or give another output folder"
        )


# --- names of tar members: unique, flat and harmless ---------------------------------------------------------------


def flat_name(name: str) -> str:
    """A name without folders and dots: readers of tar shards cut names at the first dot, and NeMo drops folders.

    >>> flat_name("../b/x.1-sub2")
    'b_x_1_sub2'
    """
    flat = re.sub(r"[^\w-]", "_", "/".join(part for part in name.split("/") if part not in ("", ".", "..")))
    # NeMo takes name-sub1 for the first segment of a member called name.
    return re.sub(r"-sub(?=\d)", "_sub", flat) or "_"


def member_names(names: Iterable[tuple[str, str]], suffix: str) -> list[str]:
    """Names of members for pairs of a name and an identity. Where flat names would meet, part of a hash keeps them apart.

    The result for one pair does not depend on the order of the others.
    """
    pairs = [(flat_name(name), identity) for name, identity in names]
    taken = Counter(flat for flat, _ in pairs)
    members = []
    for flat, identity in pairs:
        if taken[flat] > 1 or len(flat) > MAX_NAME_LENGTH:
            flat = f"{flat[:MAX_NAME_LENGTH]}-{hashlib.sha256(identity.encode(errors='surrogateescape')).hexdigest()[:10]}"
        members.append(flat + suffix)
    return members
