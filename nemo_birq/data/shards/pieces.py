"""Writes the pieces of each shard to a file, sorted by shard without having all pieces in memory."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_birq.data.shards.arrangement import Dealt
from nemo_birq.data.shards.cut import Piece
from nemo_birq.data.shards.listing import COMPRESSED, PIECES, ListedInput
from nemo_birq.data.shards.plan import SCRATCH, ShardPlan

_FOLDER = "pieces"
_IN_A_GROUP = 200_000  # pieces that are sorted in memory
_MOST_GROUPS = 200  # each is an open file
_TABLES_AT_ONCE = 50
_SCHEMA = pa.schema({"member": pa.large_string(), "piece": pa.large_string(), "place": pa.int32()})


def write_pieces(out: Path, listed: ListedInput, kept: np.ndarray, names: pa.LargeStringArray, dealt: Dealt) -> None:
    """Writes a file with the pieces of each shard.

    The tables are read once and distributed over groups of shards; then each group is sorted.

    Args:
        out: output folder.
        listed: tables of the input.
        kept: (pieces,) bool, true for the N pieces that go into shards.
        names: N names of their members.
        dealt: numbers of these pieces in the order of the shards.
    """
    folder = out / SCRATCH / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (out / SCRATCH / "records").mkdir(exist_ok=True)
    place = np.empty(len(dealt.order), np.int32)
    place[dealt.order] = np.arange(len(dealt.order), dtype=np.int32)
    firsts = np.cumsum([0, *(shard.utterances for shard in dealt.shards)])
    least = max(_IN_A_GROUP, len(place) // _MOST_GROUPS)
    begins = np.unique(np.searchsorted(firsts[:-1], np.arange(0, len(place), least)))  # first shards of the groups
    begins = begins[begins < len(dealt.shards)]
    with TemporaryDirectory(dir=listed.folder) as spread:
        groups = [Path(spread) / f"{number}.arrow" for number in range(len(begins))]
        _spread(listed, kept, names, place, firsts[begins], groups)
        for path, first, last in zip(groups, begins, [*begins[1:], len(dealt.shards)], strict=True):
            _write_group(folder, dealt.shards[first:last], path)
            path.unlink()


def pieces_name(shard: ShardPlan) -> str:
    """Returns the name of the file with the pieces of a shard, relative to the output folder."""
    return f"{SCRATCH}/{_FOLDER}/{shard.file_name}"


def _spread(
    listed: ListedInput,
    kept: np.ndarray,
    names: pa.LargeStringArray,
    place: np.ndarray,
    begins: np.ndarray,
    groups: list[Path],
) -> None:
    """Appends each piece to the file of its group; ``begins`` are the first places of the groups."""
    row = 0
    with ExitStack() as stack:
        writers = [stack.enter_context(pa.ipc.new_stream(str(path), _SCHEMA, options=COMPRESSED)) for path in groups]
        for number in range(0, len(listed.batches), _TABLES_AT_ONCE):
            numbers = range(number, min(number + _TABLES_AT_ONCE, len(listed.batches)))
            pieces = pa.concat_tables(listed.table(PIECES, n, ["piece"]) for n in numbers)
            first = listed.first_piece(number)
            pieces = pieces.filter(pa.array(kept[first : first + len(pieces)])).column("piece").combine_chunks()
            places = place[row : row + len(pieces)]
            table = pa.table([names[row : row + len(pieces)], pieces, places], schema=_SCHEMA)
            order = np.argsort(places)
            table = table.take(pa.array(order))
            bounds = np.searchsorted(places[order], [*begins, len(place)])
            for writer, start, end in zip(writers, bounds[:-1], bounds[1:], strict=True):
                if end > start:
                    writer.write_table(table.slice(start, end - start))
            row += len(pieces)


def _write_group(folder: Path, shards: list[ShardPlan], path: Path) -> None:
    with pa.ipc.open_stream(str(path)) as reader:
        table = reader.read_all()
    table = table.take(pa.array(np.argsort(table.column("place").to_numpy()))).combine_chunks()
    # This equals json.dumps([member, piece]), because names of members have no characters that JSON escapes.
    parts = '["', table.column("member"), '", ', table.column("piece"), "]\n", ""
    [lines] = pc.binary_join_element_wise(
        *(pa.scalar(p, pa.large_string()) if isinstance(p, str) else p for p in parts)
    ).chunks
    _, offsets, data = lines.buffers()
    bounds = np.frombuffer(offsets, np.int64)
    row = 0
    for shard in shards:
        first, last = bounds[row], bounds[row + shard.utterances]
        (folder / shard.file_name).write_bytes(data.slice(first, last - first))
        row += shard.utterances


def read_pieces(out: Path, shard: ShardPlan) -> Iterator[tuple[str, Piece]]:
    """Yields the pieces of a shard with the names of their members."""
    with open(out / pieces_name(shard), encoding="utf-8") as file:
        for line in file:
            member, fields = json.loads(line)
            if fields["channels"] is not None:
                fields["channels"] = tuple(fields["channels"])
            yield member, Piece(**fields)
