"""The plan of a build: which piece of which file goes into which shard.

It is made once, from headers alone, and written down under ``.build`` in the output folder. Each shard then is a job of its
own, which depends on the plan and on nothing else: that makes a build the same with any number of processes, and lets an
interrupted one go on.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import soundfile
import soxr

import nemo_birq
from nemo_birq.data.shards.audio import CODECS, OPUS_RATES
from nemo_birq.data.shards.segments import BuildError, Skipped
from nemo_birq.data.shards.source import shareable

SCRATCH = ".build"
PLAN = "build_plan.json"


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


def read_plan(out: Path) -> Plan | None:
    """The plan of an earlier build in this folder."""
    if not (out / PLAN).is_file():
        return None
    written_later = {"not_taken": {}, "versions": {}}  # which plans of earlier versions lack, as they do single_files
    plan = Plan(**written_later | json.loads((out / PLAN).read_text(encoding="utf-8")))
    shards, skipped = [ShardPlan(*shard) for shard in plan.shards], [Skipped(*entry) for entry in plan.skipped]
    options = plan.options | {"single_files": plan.options.get("single_files", False)}
    return plan._replace(source=shareable(plan.source), options=options, shards=shards, skipped=skipped)


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
