"""Finds the byte positions of the members of tar shards, and of single files, on the local disk or behind a URL.

Remote files are read once from beginning to end, which gives each member a checksum. A later read of a few bytes thus
detects a replaced file even if the store has no versions. The table of a remote shard is cached under a name that depends
on its URL and version.
"""

import hashlib
import json
import os
import tarfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, NamedTuple

import pyarrow as pa
from filelock import FileLock

from nemo_birq.data.remote import Range, Version, look, open_stream, read_ranges
from nemo_birq.data.retries import RemoteError, may_pass
from nemo_birq.data.tables import cache_folder, is_whole, map_table, write_table
from nemo_birq.utils.urls import is_url

FORMAT = 1  # version of the table of a remote shard; part of its name
SHARDS_AT_ONCE = 8  # remote shards that are read in parallel
REQUESTS_AT_ONCE = 32  # parallel requests for versions and for single files
CHUNK = 1 << 20


class Member(NamedTuple):
    """Place of an encoded audio file."""

    position: int
    """Position in its file, in bytes."""
    size: int
    """Size in bytes."""
    checksum: int | None = None
    """CRC-32 of its bytes; None for a local file."""


class Members(NamedTuple):
    """Members of a shard."""

    found: dict[str, Member]
    problems: list[str]


def find_versions(paths: Iterable[str]) -> dict[str, Version]:
    """Returns the versions of all remote files among paths, by URL; errors as ``remote.look``."""
    urls = [path for path in dict.fromkeys(paths) if is_url(path)]
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
        return dict(zip(urls, threads.map(look, urls), strict=True))


def members_of_shards(tars: list[str], versions: dict[str, Version]) -> Iterator[Members]:
    """Yields the members of each shard, in order.

    Args:
        tars: paths and URLs.
        versions: versions of the remote shards, by URL.

    Raises:
        RemoteError: a remote shard cannot be read.
    """
    if not versions:
        yield from map(_local, tars)
        return
    waiting: deque[Future[Members]] = deque()
    with ThreadPoolExecutor(SHARDS_AT_ONCE) as threads:
        for tar in tars:
            waiting.append(threads.submit(members_of, tar, versions.get(tar)))
            if len(waiting) == SHARDS_AT_ONCE:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def members_of(tar: str, version: Version | None) -> Members:
    """Returns the members of one shard; ``version`` is None for a local one. Errors are those of ``members_of_shards``."""
    return _local(tar) if version is None else _remote(tar, version)


def measure_files(urls: Iterable[str]) -> Iterator[Member | str]:
    """Yields size and checksum of each remote file in order, or the reason why it cannot be read.

    Raises:
        RemoteError: the store does not answer.
    """
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
        yield from threads.map(_measure, urls)


def _measure(url: str) -> Member | str:
    try:
        size = look(url).size
        return Member(0, size, zlib.crc32(read_ranges([Range(url, 0, size)])[0]))
    except RemoteError as error:
        if error.__cause__ is not None and may_pass(error.__cause__):
            raise
        return str(error)


def _local(tar: str) -> Members:
    members = Members({}, [])
    end = os.path.getsize(tar)
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                _add(members, tar, member, end, checksum=None)
    except tarfile.TarError as error:
        members.problems.append(_broken(tar, error, members))
    return members


def _remote(tar: str, version: Version) -> Members:
    name = hashlib.sha256(json.dumps([FORMAT, tar, version]).encode()).hexdigest()[:24]
    path = cache_folder() / "shards" / f"{name}.arrow"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # the shard may belong to two datasets, which two processes open
        if not is_whole(path):
            write_table(_to_table(_read_once(tar, version)), path)
    return _from_table(map_table(path))


def _read_once(tar: str, version: Version) -> Members:
    members = Members({}, [])
    with open_stream(tar, version) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    if member.isfile() and member.offset_data + member.size <= version.size:
                        _add(members, tar, member, version.size, _checksum(archive.extractfile(member)))
                    else:
                        _add(members, tar, member, version.size, checksum=None)
        except tarfile.TarError as error:
            members.problems.append(_broken(tar, error, members))
    return members


def _checksum(file: IO[bytes]) -> int:
    checksum = 0
    while chunk := file.read(CHUNK):
        checksum = zlib.crc32(chunk, checksum)
    return checksum


def _add(members: Members, tar: str, member: tarfile.TarInfo, end: int, checksum: int | None) -> None:
    if not member.isfile():
        return
    if member.offset_data + member.size > end:
        raise tarfile.ReadError("unexpected end of data")
    if member.name in members.found:
        members.problems.append(f"shard {tar} holds {member.name} twice; the first is used")
    else:
        members.found[member.name] = Member(member.offset_data, member.size, checksum)


def _broken(tar: str, error: tarfile.TarError, members: Members) -> str:
    return (
        f"shard {tar} cannot be read to its end ({error}); {len(members.found)} members before that are used. Build it "
        "again, or unpack it if it is compressed"
    )


def _to_table(members: Members) -> pa.RecordBatch:
    positions, sizes, checksums = zip(*members.found.values(), strict=True) if members.found else ((), (), ())
    columns = {
        "name": pa.array(members.found, pa.large_string()),
        "position": pa.array(positions, pa.int64()),
        "size": pa.array(sizes, pa.int64()),
        "checksum": pa.array(checksums, pa.uint32()),
    }
    return pa.RecordBatch.from_pydict(columns).replace_schema_metadata({"problems": json.dumps(members.problems)})


def _from_table(table: pa.RecordBatch) -> Members:
    columns = [column.to_pylist() for column in table.columns]
    found = {name: Member(*rest) for name, *rest in zip(*columns, strict=True)}
    return Members(found, json.loads(table.schema.metadata[b"problems"]))
