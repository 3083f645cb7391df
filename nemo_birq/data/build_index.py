"""Builds the index of a dataset: reads every manifest line and the header of every member of every shard, once.

What does not fit together is left out, counted and said: a line without its member, a member without its line, a name twice,
a name that leaves the folder, a truncated shard.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from rich.progress import track

from nemo_birq.data.json_lines import show
from nemo_birq.data.manifests import ManifestLine, iterate_manifest
from nemo_birq.data.member_names import find_members
from nemo_birq.data.members import Member, Members, measure_files, members_of_shards
from nemo_birq.data.remote import Version
from nemo_birq.data.sources import Source
from nemo_birq.utils.urls import absolute, folder_of, is_url, join

MAX_PROBLEMS = 1000  # kept in words; all are counted


class _Part(NamedTuple):
    """Columns of one shard, or of one manifest of single files."""

    names: list[str]
    positions: list[int]
    sizes: list[int]
    starts: list[float]
    durations: list[float]
    checksums: list[int | None]

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


def _empty_part() -> _Part:
    return _Part([], [], [], [], [], [])


class ShardLines(NamedTuple):
    """A shard with the entries of its manifest."""

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

    def of_empty(self, manifest: str) -> str:
        """Returns the message for a dataset of which nothing can be used."""
        marked = [f"_skipme or validation_status leaves out {self.num_left_out} lines"] if self.num_left_out else []
        return "\n".join([f"{manifest} holds nothing that can be used:", *(self.words[:10] + marked or ["it is empty"])])


def build_table(source: Source, versions: Mapping[str, Version]) -> pa.RecordBatch:
    """The table of a dataset: name, shard, position, size, start, duration, checksum; shards and problems in its metadata.

    Args:
        source: the dataset.
        versions: of its remote shards.

    Raises:
        ValueError: shards and manifests that do not belong together, a compressed shard, nothing that can be used.
        RemoteError: a remote manifest or shard cannot be read.
    """
    problems = Problems()
    if source.tars is None:
        parts = (_files(path, problems) for path in _watched(source.manifest_paths, "Indexing audio files"))
    else:
        shards = zip(entries_by_shard(source, problems), members_of_shards(source.tar_paths, versions), strict=True)
        watched = _watched(shards, "Indexing shards", len(source.tar_paths))
        parts = (_shard(lines, members, problems) for lines, members in watched)
    table = pa.Table.from_batches([part.to_columns(number) for number, part in enumerate(parts)])
    if table.num_rows == 0:
        raise ValueError(problems.of_empty(source.manifest))
    about = {
        "shards": [absolute(path) for path in source.tar_paths],
        "problems": problems.words,
        "num_lost": problems.num_lost,
        "num_left_out": problems.num_left_out,
    }
    [batch] = table.combine_chunks().to_batches()
    return batch.replace_schema_metadata({"birq": json.dumps(about)})


def _watched(things: Iterable, description: str, total: int | None = None) -> Iterable:
    """With a progress bar where there are many."""
    total = total or len(things)
    return track(things, description, total, transient=True) if total > 16 else things


# --- single files -----------------------------------------------------------------------------------------------------


def _files(manifest: str, problems: Problems) -> _Part:
    part = _empty_part()
    folder = folder_of(manifest)
    remote: dict[str, list[tuple[int, str]]] = defaultdict(list)  # rows and lines of each file, which is measured later
    for where, entry, problem in _counted(manifest, problems, []):
        path = None if problem else join(folder, entry["audio_filepath"])
        if path is not None and is_url(path):
            remote[path].append((len(part.names), where))
            part.append(path, Member(0, 0), entry)
            continue
        if path is not None and not os.path.isfile(path):
            problem = f"{where} names {path}, which does not exist"
        if problem:
            problems.add(problem)
        else:
            part.append(path, Member(0, os.path.getsize(path)), entry)
    return _measured(part, remote, problems) if remote else part


def _measured(part: _Part, remote: Mapping[str, list[tuple[int, str]]], problems: Problems) -> _Part:
    """Returns the rows with size and checksum of each remote file, without those that cannot be read."""
    lost = set()
    for path, found in _watched(zip(remote, measure_files(remote), strict=True), "Reading remote files", len(remote)):
        for row, where in remote[path]:
            if isinstance(found, Member):
                part.sizes[row], part.checksums[row] = found.size, found.checksum
            else:
                problems.add(f"{where}: {found}")
                lost.add(row)
    return _Part(*([value for row, value in enumerate(column) if row not in lost] for column in part))


# --- tar shards -------------------------------------------------------------------------------------------------------


def entries_by_shard(source: Source, problems: Problems) -> Iterator[ShardLines]:
    """Yields each shard with its manifest lines.

    Raises:
        ValueError: shards and manifests that do not belong together.
    """
    manifests, tars = source.manifest_paths, source.tar_paths
    if len(manifests) not in (1, len(tars)):
        raise ValueError(
            f"{source.manifest} names {len(manifests)} manifests, {source.tars} names {len(tars)} shards: there must be "
            "one manifest for each shard, or one for all"
        )
    if len(manifests) > 1 or len(tars) == 1:
        _check_numbers(manifests, tars)
        for tar, manifest in zip(tars, manifests, strict=True):
            left_out: list[dict] = []
            lines = _counted(manifest, problems, left_out)
            yield ShardLines(tar, list(_usable(lines, problems)), left_out)
        return
    numbers: dict[int, str] = {}
    for tar in tars:
        number = _number(tar, "audio")
        if number in numbers:
            raise ValueError(f"{numbers[number]} and {tar} both have number {number}, by which {manifests[0]} names shards")
        numbers[number] = tar
    grouped = {tar: ShardLines(tar, [], []) for tar in tars}
    marked: list[dict] = []
    for where, entry, problem in _counted(manifests[0], problems, marked):
        tar = numbers.get(_shard_id(entry))
        if problem:
            problems.add(problem)
        elif tar is not None:
            grouped[tar].entries.append(entry)
        else:
            shown = f"{entry['audio_filepath']} has shard_id={show(entry.get('shard_id'))}"
            problems.add(f"{where}: {shown}, but the shards are numbered {min(numbers)} to {max(numbers)}")
    for entry in marked:
        if (tar := numbers.get(_shard_id(entry))) is not None:
            grouped[tar].left_out.append(entry)
    yield from grouped.values()


def _shard_id(entry: dict) -> int | float | None:
    value = entry.get("shard_id")
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _counted(manifest: str, problems: Problems, left_out: list[dict]) -> Iterator[ManifestLine]:
    """Yields the lines of a manifest, and counts those that are marked to be left out, which are added to ``left_out``."""
    yield from iterate_manifest(manifest, left_out)
    problems.num_left_out += len(left_out)


def _usable(lines: Iterable[ManifestLine], problems: Problems) -> Iterator[dict]:
    for _, entry, problem in lines:
        if problem:
            problems.add(problem)
        else:
            yield entry


def _check_numbers(manifests: list[str], tars: list[str]) -> None:
    if len(tars) == 1:
        return
    found = [_number(path, "manifest") for path in manifests], [_number(path, "audio") for path in tars]
    if found[0] != found[1]:
        raise ValueError(f"manifests are numbered {found[0]}, shards {found[1]}: they must agree, in the same order")


def _number(path: str, prefix: str) -> int:
    match = re.search(rf"{prefix}[^/]*_(\d+)[^/]*\.(json|tar)", path)
    if match is None:
        raise ValueError(f"{path}: its name must look like {prefix}_0.{'tar' if prefix == 'audio' else 'json'}")
    return int(match.group(1))


def _shard(lines: ShardLines, shard: Members, problems: Problems) -> _Part:
    """The utterances of a shard, in the order of its members."""
    tar, members = lines.tar, shard.found
    for problem in shard.problems:
        problems.add(problem, lost=0)  # the lines of the manifest without their members are counted
    order = {name: number for number, name in enumerate(members)}
    marked = {str(entry.get("audio_filepath")) for entry in lines.left_out}
    meant = find_members({entry["audio_filepath"] for entry in lines.entries} | marked, members)
    part, used, found = _empty_part(), set(), []
    for entry in lines.entries:
        name = entry["audio_filepath"]
        utterance = (name, entry.get("offset") or 0.0)
        if leaves_folder(name):
            problems.add(f"shard {tar}: the name {name} leaves the folder")
        elif name not in meant:
            problems.add(f"shard {tar} lacks {name}, which its manifest names")
        elif utterance in used:
            problems.add(f"shard {tar}: {name} stands twice in its manifest; the first is used")
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
