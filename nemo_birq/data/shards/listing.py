"""The input of a build as tables on the disk, which need not fit into memory.

Workers take batches of segments from the recipe, read the headers of their files, and cut them. Each batch becomes two
tables, with a row for each segment and for each piece. Plans of tens of millions of utterances are made from single columns.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from nemo_birq.data.shards.cut import CUTS, Piece, cut
from nemo_birq.data.shards.headers import look_up
from nemo_birq.data.shards.names import member_name
from nemo_birq.data.shards.plan import BuildOptions
from nemo_birq.data.shards.segments import Batch, Segment, Skipped
from nemo_birq.data.shards.workers import Workers, advance, run_jobs
from nemo_birq.utils.progress import Progress

SEGMENTS, PIECES = "segments", "pieces"
_REPORTED = 100  # segments after which a worker reports its progress
COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")


class ListJob(NamedTuple):
    """One batch, for a worker."""

    build: str
    """Unique name of the build."""
    batch: Batch
    max_duration: float
    """Seconds."""
    suffix: str
    """Suffix of the members."""


class ListedBatch(NamedTuple):
    """The part of a batch in memory; the rest is in its tables."""

    segments: int
    pieces: int
    name_bytes: int
    """Total length of the names of all members."""
    skipped: list[Skipped]
    """Entries that the recipe leaves out."""
    unusable: list[tuple[int, Skipped]]
    """Numbers of segments without a piece, from 0, with the reasons."""


class ListedInput:
    """Columns of all segments and pieces, in the order of the recipe.

    Args:
        folder: folder of the tables.
        batches: results of all batches in their order.
    """

    def __init__(self, folder: Path, batches: Sequence[ListedBatch]):
        self.folder, self.batches = folder, batches
        self._first = {
            SEGMENTS: np.cumsum([0, *(batch.segments for batch in batches)]),
            PIECES: np.cumsum([0, *(batch.pieces for batch in batches)]),
        }

    @property
    def num_segments(self) -> int:
        return int(self._first[SEGMENTS][-1])

    @property
    def num_pieces(self) -> int:
        return int(self._first[PIECES][-1])

    def first_piece(self, number: int) -> int:
        """Returns the number of the first piece of a batch."""
        return int(self._first[PIECES][number])

    @property
    def skipped(self) -> Iterator[Skipped]:
        """Entries that the recipe leaves out."""
        return (entry for batch in self.batches for entry in batch.skipped)

    @property
    def unusable(self) -> Iterator[tuple[int, Skipped]]:
        """Numbers of segments without a piece, with the reasons."""
        firsts = self._first[SEGMENTS].tolist()
        for first, batch in zip(firsts, self.batches, strict=False):
            yield from ((first + number, reason) for number, reason in batch.unusable)

    def table(self, kind: str, number: int, columns: Sequence[str]) -> pa.Table:
        """Reads columns of one batch without unpacking the others."""
        wanted = pa.ipc.IpcReadOptions(included_fields=[_SCHEMAS[kind].get_field_index(name) for name in columns])
        return pa.ipc.open_stream(pa.memory_map(str(_path(self.folder, kind, number))), options=wanted).read_all()

    def column(self, kind: str, name: str) -> np.ndarray:
        """Reads a column of numbers of all batches."""
        firsts = self._first[kind]
        found = np.empty(firsts[-1], _SCHEMAS[kind].field(name).type.to_pandas_dtype())
        for number, (first, last) in enumerate(zip(firsts[:-1].tolist(), firsts[1:].tolist(), strict=True)):
            found[first:last] = self.table(kind, number, [name]).column(name).to_numpy()
        return found

    def names(self, kept: np.ndarray) -> pa.LargeStringArray:
        """Reads the names of the members of all pieces for which ``kept``, (pieces,) bool, is true."""
        offsets = np.zeros(np.count_nonzero(kept) + 1, np.int64)
        data = np.empty(sum(batch.name_bytes for batch in self.batches), np.uint8)
        row = 0
        for number in range(len(self.batches)):
            first, last = self._first[PIECES][number : number + 2]
            chosen = self.table(PIECES, number, ["member"]).column("member").filter(pa.array(kept[first:last]))
            names = chosen.combine_chunks().cast(pa.large_string())
            bounds = np.frombuffer(names.buffers()[1], np.int64)[: len(names) + 1] if len(names) else np.zeros(1, np.int64)
            end = offsets[row] + bounds[-1] - bounds[0]
            if end > offsets[row]:
                data[offsets[row] : end] = np.frombuffer(names.buffers()[2], np.uint8)[bounds[0] : bounds[-1]]
            offsets[row : row + len(names) + 1] = bounds - bounds[0] + offsets[row]
            row += len(names)
        return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))

    def texts(self, kind: str, name: str, rows: np.ndarray) -> list[bytes]:
        """Reads the values of a column of texts in a few rows."""
        found: list[bytes] = [b""] * len(rows)
        batches = np.searchsorted(self._first[kind], rows, side="right") - 1
        for number in np.unique(batches).tolist():
            places = np.flatnonzero(batches == number)
            wanted = pa.array(rows[places] - self._first[kind][number])
            values = self.table(kind, number, [name]).column(name).cast(pa.binary()).take(wanted).to_pylist()
            for place, value in zip(places.tolist(), values, strict=True):
                found[place] = value
        return found


def list_input(
    batches: Iterable[Batch], folder: Path, options: BuildOptions, workers: Workers, progress: Progress
) -> ListedInput:
    """Makes the tables of all batches of a recipe.

    Args:
        batches: batches, which are taken when the workers need them.
        folder: empty folder for the tables.
        options: options of the build.
        workers: number of processes, or a cluster.
        progress: shows the number of utterances.
    """
    how = options.max_duration, options.suffix
    jobs = (ListJob(folder.name, batch, *how) for batch in batches)
    found: dict[int, ListedBatch] = {}
    for number, (listed, tables) in run_jobs(list_batch, jobs, workers, progress.start("utterances of the input")):
        found[number] = listed
        for kind, table in tables.items():
            _path(folder, kind, number).write_bytes(table)
    return ListedInput(folder, [found[number] for number in range(len(found))])


def list_batch(job: ListJob) -> tuple[ListedBatch, dict[str, pa.Buffer]]:
    """Returns a batch and its tables by kind. It writes no files, because the worker may be on another machine."""
    listed = job.batch.read()
    segments: dict[str, list] = {name: [] for name in _ALL[SEGMENTS]}
    pieces: dict[str, list] = {name: [] for name in _ALL[PIECES]}
    unusable = []
    files = look_up(job.build, [segment.path for segment in listed.segments])
    for number, (segment, (header, real)) in enumerate(zip(listed.segments, files, strict=True)):
        counts: Counter = Counter()
        found = (
            header._replace(name=segment.identity)
            if isinstance(header, Skipped)
            else cut(segment, header, job.max_duration, counts)
        )
        if isinstance(found, Skipped):
            unusable.append((number, found))
            found = []
        _add_segment(segments, segment, real, len(found), counts)
        for piece in found:
            _add_piece(pieces, piece, job.suffix)
        if number % _REPORTED == _REPORTED - 1:
            advance(_REPORTED)
    advance(len(listed.segments) % _REPORTED)
    name_bytes = sum(len(name.encode()) for name in pieces["member"])
    result = ListedBatch(len(listed.segments), len(pieces["member"]), name_bytes, list(listed.skipped), unusable)
    return result, {SEGMENTS: _packed(SEGMENTS, segments), PIECES: _packed(PIECES, pieces)}


def _packed(kind: str, columns: dict[str, list]) -> pa.Buffer:
    table, buffer = pa.table(columns, _SCHEMAS[kind]), pa.BufferOutputStream()
    with pa.ipc.new_stream(buffer, table.schema, options=COMPRESSED) as writer:
        writer.write_table(table)
    return buffer.getvalue()


_SCHEMAS = {
    SEGMENTS: pa.schema(
        {
            "identity": pa.binary(),
            "identity_high": pa.uint64(),  # two halves of a hash
            "identity_low": pa.uint64(),
            "audio_high": pa.uint64(),  # hash of the real path of the file with the times and channels
            "audio_low": pa.uint64(),
            "path": pa.uint64(),  # hash
            "pieces": pa.int32(),
            **{name: pa.int32() for name in CUTS},  # number of pieces that were cut in each way
        }
    ),
    PIECES: pa.schema({"member": pa.string(), "seconds": pa.float64(), "piece": pa.large_string()}),
}
_ALL = {kind: schema.names for kind, schema in _SCHEMAS.items()}


def _add_segment(columns: dict[str, list], segment: Segment, real: str, pieces: int, counts: Counter) -> None:
    identity = segment.identity.encode(errors="surrogateescape")
    duration = None if segment.duration is None else float(segment.duration)
    audio = repr((real, float(segment.start), duration, segment.channels)).encode()
    columns["identity"].append(identity)
    for name, text in (("identity", identity), ("audio", audio)):
        digest = hashlib.blake2b(text, digest_size=16).digest()
        columns[f"{name}_high"].append(int.from_bytes(digest[:8], "big"))
        columns[f"{name}_low"].append(int.from_bytes(digest[8:], "big"))
    path = hashlib.blake2b(segment.path.encode(errors="surrogateescape"), digest_size=8).digest()
    columns["path"].append(int.from_bytes(path, "big"))
    columns["pieces"].append(pieces)
    for name in CUTS:
        columns[name].append(counts[name])


def _add_piece(columns: dict[str, list], piece: Piece, suffix: str) -> None:
    columns["member"].append(member_name(piece.name, piece.identity, suffix))
    columns["seconds"].append(piece.seconds)
    columns["piece"].append(json.dumps(vars(piece)))


def _path(folder: Path, kind: str, number: int) -> Path:
    return folder / f"{number:06d}.{kind}.arrow"
