"""Builds on many machines: the plan is made once, any job builds its part of the shards, and the plain command finishes.

All jobs see the same output folder, or write to the same URL. A part may be killed, repeated and run in any order, since
each shard depends on the plan alone and is whole or absent.
"""

import re
from pathlib import Path
from typing import NamedTuple

from nemo_birq.data.shards.build import CARD, Recipe, build_shards, check_same_build, described, disk_errors, find_plan
from nemo_birq.data.shards.plan import PLAN, BuildOptions, ShardPlan
from nemo_birq.data.shards.segments import BuildError
from nemo_birq.data.shards.stored import StoredFolder
from nemo_birq.data.shards.workers import Workers
from nemo_birq.utils.progress import Progress

_PART = re.compile(r"([0-9]+)/([0-9]+)")


class Part(NamedTuple):
    """Every ``of``-th shard of a plan, from the ``number``-th on, counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Reads ``3/16``; raises a ValueError where it is something else."""
        match = _PART.fullmatch(text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"{text!r} is no part: write its number and how many there are, from 1/16 to 16/16")
        return cls(int(match[1]), int(match[2]))

    def choose(self, shards: list[ShardPlan]) -> list[ShardPlan]:
        """Returns the shards of this part."""
        return shards[self.number - 1 :: self.of]


class PartResult(NamedTuple):
    """Built shards of a part."""

    shards: int
    hours: float
    is_complete: bool
    """The whole build was finished before."""


def build_part(
    recipe: Recipe, out: Path | str, options: BuildOptions, workers: Workers, part: Part, progress: Progress
) -> PartResult:
    """Builds the shards of one part of a planned build, but those that are finished.

    Args:
        out: folder with the plan, or a URL; see ``build.plan_build``.
        workers: processes, or a cluster.

    Raises:
        BuildError: there is no plan, or it is of another command or version; another process builds one of the shards.
        RemoteError: input or ``out`` are remote, and cannot be read or written.
    """
    folder = StoredFolder(out)
    plan = find_plan(folder)
    if plan is None:
        raise BuildError(
            f"{out} holds no {PLAN}: give the same command with --plan in place of --part, once, before the parts"
        )
    check_same_build(folder, plan, described(recipe), options)
    shards = part.choose(plan.shards)
    hours = sum(shard.seconds for shard in shards) / 3600
    if (folder.local / CARD).is_file():
        return PartResult(len(shards), hours, is_complete=True)
    with disk_errors(folder):
        build_shards(plan, shards, folder, workers, progress)
    return PartResult(len(shards), hours, is_complete=False)
