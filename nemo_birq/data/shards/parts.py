"""Builds on many machines: one command makes the plan, each job builds a part of the shards, and the last command finishes.

All jobs share the output folder, or write to the same URL. Parts may be killed, repeated and run in any order, because each
shard depends only on the plan and is complete or absent.
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
    """Every ``of``-th shard of a plan, starting with the ``number``-th, counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Parses text such as ``3/16``; raises a ValueError for other text."""
        match = _PART.fullmatch(text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"{text!r} is not a part: give its number and the number of parts, such as 3/16")
        return cls(int(match[1]), int(match[2]))

    def choose(self, shards: list[ShardPlan]) -> list[ShardPlan]:
        """Returns the shards of this part."""
        return shards[self.number - 1 :: self.of]


class PartResult(NamedTuple):
    """Built shards of a part."""

    shards: int
    hours: float
    is_complete: bool
    """True if the whole build was already finished."""


def build_part(
    recipe: Recipe, out: Path | str, options: BuildOptions, workers: Workers, part: Part, progress: Progress
) -> PartResult:
    """Builds the shards of one part of a planned build, except finished ones.

    Args:
        recipe: kind of input.
        out: folder with the plan, or its URL; see ``build.plan_build``.
        options: options of the build.
        workers: number of processes, or a cluster.
        part: part to build.
        progress: shows long work.

    Raises:
        BuildError: there is no plan, it is of another command or version, or another process builds one of the shards.
        RemoteError: remote input or a remote ``out`` cannot be read or written.
    """
    folder = StoredFolder(out)
    plan = find_plan(folder)
    if plan is None:
        raise BuildError(f"{out} holds no {PLAN}: run the same command once with --plan instead of --part, before all parts")
    check_same_build(folder, plan, described(recipe), options)
    shards = part.choose(plan.shards)
    hours = sum(shard.seconds for shard in shards) / 3600
    if (folder.local / CARD).is_file():
        return PartResult(len(shards), hours, is_complete=True)
    with disk_errors(folder):
        build_shards(plan, shards, folder, workers, progress)
    return PartResult(len(shards), hours, is_complete=False)
