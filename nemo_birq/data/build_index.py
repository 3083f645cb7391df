"""Builds the index of a dataset: reads every manifest line and the header of every member of every shard once.

Inconsistent data are left out, counted and described: a line without its member, a member without its line, a duplicate
name, a name that leaves the folder, a truncated shard.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa
from rich.progress import track

from nemo_birq.data.index_rows import (
    IndexedShard,
    IndexJob,
    Problems,
    Rows,
    ShardLines,
    counted_lines,
    index_shard,
    rows_of_shard,
    usable_entries,
)
from nemo_birq.data.json_lines import show
from nemo_birq.data.members import Member, measure_files, members_of_shards
from nemo_birq.data.remote import Version
from nemo_birq.data.shards.segments import BuildError
from nemo_birq.data.shards.workers import run_jobs
from nemo_birq.data.sources import Source
from nemo_birq.utils.progress import ProgressBars
from nemo_birq.utils.urls import absolute, folder_of, is_url, join

SHARDS_OF_A_PROCESS = 32  # fewer are not worth the start of another process
MAX_PROCESSES = 16
SMALL_TYPES = {"name": pa.string(), "size": pa.uint32(), "start": pa.float32(), "checksum": pa.uint32()}


def build_table(source: Source, versions: Mapping[str, Version]) -> pa.RecordBatch:
    """Builds the table of a dataset.

    Args:
        source: the dataset.
        versions: versions of its remote shards.

    Returns:
        Columns name, shard, position, size, start, duration and checksum; the metadata hold paths of shards and problems.

    Raises:
        ValueError: shards and manifests that do not belong together, a compressed shard, or no usable utterance.
        RemoteError: a remote manifest or shard cannot be read.
    """
    problems = Problems()
    if source.tars is None:
        parts = [_files(path, problems) for path in _watched(source.manifest_paths, "Indexing audio files")]
        batches = [part.to_columns(number) for number, part in enumerate(parts)]
    else:
        batches = _index_shards(source, versions, problems)
    table = pa.Table.from_batches(batches)
    if table.num_rows == 0:
        raise ValueError(problems.of_empty(source.manifest))
    about = {
        "shards": [absolute(path) for path in source.tar_paths],
        "problems": problems.words,
        "num_lost": problems.num_lost,
        "num_left_out": problems.num_left_out,
    }
    [batch] = with_small_types(table).to_batches()
    return batch.replace_schema_metadata({"birq": json.dumps(about)})


def with_small_types(table: pa.Table) -> pa.Table:
    """Converts the columns to smaller types that hold the same values; tens of millions of rows are gigabytes."""
    for number, name in enumerate(table.column_names):
        column = table.column(name).combine_chunks()
        small = _smaller(column, SMALL_TYPES[name]) if name in SMALL_TYPES else column
        table = table.set_column(number, name, small)
    return table


def _smaller(column: pa.Array, small: pa.DataType) -> pa.Array:
    if column.null_count == len(column):
        return pa.nulls(len(column))
    try:
        converted = column.cast(small)
    except pa.ArrowInvalid:  # a value does not fit
        return column
    return converted if converted.cast(column.type).equals(column) else column


def _watched(things: Iterable, description: str, total: int | None = None) -> Iterable:
    """Shows a progress bar if there are many items."""
    total = total or len(things)
    return track(things, description, total, transient=True) if total > 16 else things


# --- single files -----------------------------------------------------------------------------------------------------


def _files(manifest: str, problems: Problems) -> Rows:
    part = Rows.empty()
    folder = folder_of(manifest)
    remote: dict[str, list[tuple[int, str]]] = defaultdict(list)  # rows and lines of each file, to be measured later
    for where, entry, problem in counted_lines(manifest, problems, []):
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


def _measured(part: Rows, remote: Mapping[str, list[tuple[int, str]]], problems: Problems) -> Rows:
    """Returns the rows with size and checksum of each remote file, without those that cannot be read."""
    lost = set()
    for path, found in _watched(zip(remote, measure_files(remote), strict=True), "Reading remote files", len(remote)):
        for row, where in remote[path]:
            if isinstance(found, Member):
                part.sizes[row], part.checksums[row] = found.size, found.checksum
            else:
                problems.add(f"{where}: {found}")
                lost.add(row)
    return Rows(*([value for row, value in enumerate(column) if row not in lost] for column in part))


# --- tar shards -------------------------------------------------------------------------------------------------------


def _index_shards(source: Source, versions: Mapping[str, Version], problems: Problems) -> list[pa.RecordBatch]:
    tars, manifests = source.tar_paths, source.manifest_paths
    workers = min(len(os.sched_getaffinity(0)), len(tars) // SHARDS_OF_A_PROCESS, MAX_PROCESSES)
    if len(manifests) == len(tars) and workers > 1:
        _check_numbers(manifests, tars)
        pairs = zip(tars, manifests, strict=True)
        jobs = [IndexJob(tar, manifest, versions.get(tar), number) for number, (tar, manifest) in enumerate(pairs)]
        found = _run(jobs, workers)
        for number in range(len(jobs)):
            problems.include(found[number].problems)
        return [found[number].rows for number in range(len(jobs))]
    shards = zip(entries_by_shard(source, problems), members_of_shards(tars, versions), strict=True)
    watched = _watched(shards, "Indexing shards", len(tars))
    return [rows_of_shard(*shard, problems).to_columns(number) for number, shard in enumerate(watched)]


def _run(jobs: list[IndexJob], workers: int) -> dict[int, IndexedShard]:
    with ProgressBars(transient=True) as progress:
        try:
            return dict(run_jobs(index_shard, jobs, workers, progress.start("Indexing shards", len(jobs))))
        except BuildError as error:
            raise ValueError(
                f"the system ended one of {workers} processes that index {jobs[0].tar} and other shards, most likely "
                "because memory ran out: free some memory and start again"
            ) from error


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
            lines = counted_lines(manifest, problems, left_out)
            yield ShardLines(tar, list(usable_entries(lines, problems)), left_out)
        return
    numbers: dict[int, str] = {}
    for tar in tars:
        number = _number(tar, "audio")
        if number in numbers:
            raise ValueError(f"{numbers[number]} and {tar} both have number {number}, by which {manifests[0]} names shards")
        numbers[number] = tar
    grouped = {tar: ShardLines(tar, [], []) for tar in tars}
    marked: list[dict] = []
    for where, entry, problem in counted_lines(manifests[0], problems, marked):
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
