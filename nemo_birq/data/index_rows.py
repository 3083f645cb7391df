"""Rows of the index: the utterances of one shard, or of one manifest of single files, and the problems of the others.

This module does not import NeMo, so that processes that index shards start quickly.
"""

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from nemo_birq.data.manifests import ManifestLine, iterate_manifest
from nemo_birq.data.member_names import find_members
from nemo_birq.data.members import Member, Members, members_of
from nemo_birq.data.remote import Version
from nemo_birq.data.shards.workers import advance

MAX_PROBLEMS = 1000  # number of problems that are described; all are counted


class Rows(NamedTuple):
    """Columns of one shard, or of one manifest of single files."""

    names: list[str]
    positions: list[int]
    sizes: list[int]
    starts: list[float]
    durations: list[float]
    checksums: list[int | None]

    @classmethod
    def empty(cls) -> "Rows":
        """Returns columns without rows."""
        return cls([], [], [], [], [], [])

    def append(self, name: str, member: Member, entry: dict) -> None:
        """Adds an utterance."""
        self.names.append(name)
        self.positions.append(member.position)
        self.sizes.append(member.size)
        self.starts.append(float(entry.get("offset") or 0.0))
        self.durations.append(float(entry["duration"]))
        self.checksums.append(member.checksum)

    def to_columns(self, number: int) -> pa.RecordBatch:
        """Returns the rows as arrays, a fraction of the size of lists; ``number`` is that of the shard or manifest."""
        columns = {
            "name": pa.array(self.names, pa.large_string()),
            "shard": np.full(len(self.names), number, np.int32),
            "position": pa.array(self.positions, pa.int64()),
            "size": pa.array(self.sizes, pa.int64()),
            "start": pa.array(self.starts, pa.float64()),
            "duration": pa.array(self.durations, pa.float64()),
            "checksum": pa.array(self.checksums, pa.uint32()),
        }
        return pa.RecordBatch.from_pydict(columns)


class ShardLines(NamedTuple):
    """A shard and the entries of its manifest."""

    tar: str
    entries: list[dict]
    left_out: list[dict]
    """Entries that are marked with ``_skipme`` or ``validation_status``."""


class Problems:
    """Utterances that cannot be used, with the reasons, and the number of lines that are marked to be left out."""

    def __init__(self):
        self.words: list[str] = []
        self.num_lost = 0
        self.num_left_out = 0

    def add(self, problem: str, lost: int = 1) -> None:
        self.num_lost += lost
        if len(self.words) < MAX_PROBLEMS:
            self.words.append(problem)

    def include(self, others: "Problems") -> None:
        """Adds the problems of another part of the dataset."""
        self.num_lost += others.num_lost
        self.num_left_out += others.num_left_out
        self.words += others.words[: MAX_PROBLEMS - len(self.words)]

    def of_empty(self, manifest: str) -> str:
        """Returns the error message for a dataset without usable utterances."""
        marked = [f"_skipme or validation_status leaves out {self.num_left_out} lines"] if self.num_left_out else []
        return "\n".join([f"{manifest} has no usable utterance:", *(self.words[:10] + marked or ["it is empty"])])


def counted_lines(manifest: str, problems: Problems, left_out: list[dict]) -> Iterator[ManifestLine]:
    """Yields the lines of a manifest, and counts those that are marked to be left out, which are added to ``left_out``."""
    yield from iterate_manifest(manifest, left_out)
    problems.num_left_out += len(left_out)


def usable_entries(lines: Iterable[ManifestLine], problems: Problems) -> Iterator[dict]:
    for _, entry, problem in lines:
        if problem:
            problems.add(problem)
        else:
            yield entry


def rows_of_shard(lines: ShardLines, shard: Members, problems: Problems) -> Rows:
    """Returns the utterances of a shard, in the order of its members."""
    tar, members = lines.tar, shard.found
    for problem in shard.problems:
        problems.add(problem, lost=0)  # lines without their members are counted below
    order = {name: number for number, name in enumerate(members)}
    marked = {str(entry.get("audio_filepath")) for entry in lines.left_out}
    meant = find_members({entry["audio_filepath"] for entry in lines.entries} | marked, members)
    part, used, found = Rows.empty(), set(), []
    for entry in lines.entries:
        name = entry["audio_filepath"]
        utterance = (name, entry.get("offset") or 0.0)
        if leaves_folder(name):
            problems.add(f"shard {tar}: the name {name} leaves the folder")
        elif name not in meant:
            problems.add(f"shard {tar} lacks {name}, which its manifest names")
        elif utterance in used:
            problems.add(f"shard {tar}: {name} is twice in its manifest; the first line is used")
        else:
            used.add(utterance)
            found.append((order[meant[name]], meant[name], entry))
    for _, member, entry in sorted(found, key=lambda triple: triple[0]):
        part.append(entry["audio_filepath"], members[member], entry)
    foreign = sorted(members.keys() - set(meant.values()))
    if foreign:
        problems.add(
            f"shard {tar} holds {len(foreign)} members that no line of its manifest names, such as {foreign[0]}", lost=0
        )
    return part


def leaves_folder(name: str) -> bool:
    """Tests if the name of a member leads out of the folder into which its shard is unpacked."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


class IndexJob(NamedTuple):
    """A shard with its own manifest, for a worker process."""

    tar: str
    manifest: str
    version: Version | None
    """Version of a remote shard; None of a local one."""
    number: int


class IndexedShard(NamedTuple):
    """Result of a worker process."""

    rows: pa.RecordBatch
    problems: Problems


def index_shard(job: IndexJob) -> IndexedShard:
    """Reads the lines of a shard's manifest and the headers of its members.

    Raises:
        ValueError, RemoteError: see ``build_index.build_table``.
    """
    problems, left_out = Problems(), []
    entries = list(usable_entries(counted_lines(job.manifest, problems, left_out), problems))
    members = members_of(job.tar, job.version)
    rows = rows_of_shard(ShardLines(job.tar, entries, left_out), members, problems)
    advance(1)
    return IndexedShard(rows.to_columns(job.number), problems)
