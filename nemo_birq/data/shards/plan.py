"""The plan of a build, which assigns pieces of files to shards.

It is made once, from headers only, and written to the output folder. Each shard is a job that depends only on the plan, so
a build is the same with any number of processes and can be resumed after an interruption.
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
    """Options that determine the shards together with their input."""

    codec: str = "flac"
    sample_rate: int = 16000
    """Hz."""
    min_duration: float = 0.1
    """Seconds; shorter utterances are left out."""
    max_duration: float = 30.0
    """Seconds; longer utterances are cut."""
    shard_hours: float = 1.0
    """Approximate hours of audio in a shard; without effect if ``num_shards`` is given."""
    num_shards: int | None = None
    """Number of shards in each bucket."""
    buckets: int = 1
    """Number of shard sets, each with utterances of similar length."""
    seed: int = 0
    """Seed of the shuffle over shards."""
    single_files: bool = False
    """Write single files and one manifest instead of shards."""

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise BuildError(f"codec {self.codec} is unknown; use one of {', '.join(CODECS)}")
        if self.codec == "opus" and self.sample_rate not in OPUS_RATES:
            raise BuildError(f"opus has no sample rate of {self.sample_rate} Hz, only {', '.join(map(str, OPUS_RATES))}")
        if not 0 < self.min_duration < self.max_duration:
            raise BuildError(f"min_duration {self.min_duration} s must be between 0 and max_duration {self.max_duration} s")
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
    """Folder of the shard set relative to the output folder: "." or "bucket1", ..."""
    shard_id: int
    utterances: int
    seconds: float

    @property
    def file_name(self) -> str:
        """Name of the file with its pieces, and stem of its record once it is built."""
        return f"{'' if self.folder == '.' else self.folder + '_'}{self.shard_id:06d}.jsonl"


class Plan(NamedTuple):
    """A whole build."""

    source: dict
    """Input of the command, see ``source.shareable``."""
    options: dict
    shards: list[ShardPlan]
    skipped: list[Skipped]
    too_short: dict
    """Number and hours of utterances below the least duration."""
    cuts: dict
    """Number of pieces by the way in which they were cut."""
    bucket_limits: list[float]
    """Longest duration in each bucket, in seconds."""
    not_taken: dict
    """Files of the input that are not audio, see ``Listing``."""
    versions: dict
    """Versions on which the bytes of the shards depend; empty in plans of earlier versions."""


def read_plan(out: Path) -> Plan | None:
    """Returns the plan of an earlier build in this folder; None if there is none."""
    if not (out / PLAN).is_file():
        return None
    written_later = {"not_taken": {}, "versions": {}}  # plans of earlier versions lack these and single_files
    plan = Plan(**written_later | json.loads((out / PLAN).read_text(encoding="utf-8")))
    shards, skipped = [ShardPlan(*shard) for shard in plan.shards], [Skipped(*entry) for entry in plan.skipped]
    options = plan.options | {"single_files": plan.options.get("single_files", False)}
    return plan._replace(source=shareable(plan.source), options=options, shards=shards, skipped=skipped)


def check_same_command(out: Path, plan: Plan, source: dict, options: BuildOptions) -> None:
    """Raises a BuildError with the differences if another command began to build in this folder."""
    before = plan.source | plan.options
    now = json.loads(json.dumps(source | asdict(options)))
    differences = [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if differences:
        raise BuildError(
            f"{out} holds a build with other input or options: {'; '.join(differences)}. Run the command of that build to "
            "resume it, or name another output folder"
        )


def byte_versions() -> dict[str, str]:
    """Returns the versions on which the bytes of shards depend."""
    return {
        "nemo_birq": nemo_birq.__version__,
        "libsndfile": soundfile.__libsndfile_version__,
        "soxr": soxr.__version__,
    }


def check_same_versions(out: Path, plan: Plan) -> None:
    """Raises a BuildError if other versions made the plan of an unfinished build."""
    before = plan.versions
    differences = [f"{k} was {before[k]} and is {now}" for k, now in byte_versions().items() if before.get(k, now) != now]
    if differences:
        raise BuildError(
            f"{out} holds a build by other versions: {'; '.join(differences)}. Its shards would not all be made alike: "
            "resume it with those versions, or name another output folder"
        )
