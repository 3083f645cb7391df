"""Corruptions that respect the structure of binary files: tar archives, files of torch.save, npz, Arrow, TFRecords."""

import io
import random
import re
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

import nemo_birq.checkpoint.lightning_checkpoint  # noqa: F401  allows the classes of NeMo's checkpoints
from benchmarks.reliability.fuzzing.corruptions import BYTES, Corruption, of_bytes
from benchmarks.reliability.fuzzing.text_corruptions import change_field, yaml_file

Members = list[tuple[tarfile.TarInfo, bytes]]
UNIQUE = re.compile("[0-9a-f]{32}_")
"""Prefix of the names of the artifacts of a ``.nemo``, which differs each time."""
NAMES = ("../outside", "/etc/outside", "", "a" * 200, "other.wav", "sub/dir/name.wav", "name\nwith line", "\udcff.wav")


# --- tar --------------------------------------------------------------------------------------------------------------


def _of_members(name: str, change: Callable[[Members, int, random.Random], Members]) -> Corruption:
    def apply(path: Path, rng: random.Random) -> None:
        with tarfile.open(path) as archive:
            members = [(m, archive.extractfile(m).read() if m.isfile() else b"") for m in archive.getmembers()]
        files = [number for number, (member, _) in enumerate(members) if member.isfile()]
        files.sort(key=lambda number: UNIQUE.sub("", members[number][0].name))
        with tarfile.open(path, "w") as archive:
            for member, content in change(members, rng.choice(files), rng):
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    return Corruption(name, apply)


def _with_content(members: Members, at: int, content: bytes) -> Members:
    return [*members[:at], (members[at][0], content), *members[at + 1 :]]


def _renamed(members: Members, at: int, rng: random.Random) -> Members:
    members[at][0].name = rng.choice(NAMES)
    return members


def _linked(members: Members, at: int, rng: random.Random) -> Members:
    member = members[at][0]
    member.type, member.linkname = rng.choice([tarfile.SYMTYPE, tarfile.LNKTYPE]), "/etc/hostname"
    return _with_content(members, at, b"")


def _exchanged(members: Members, at: int, rng: random.Random) -> Members:
    other = rng.choice([n for n, (member, _) in enumerate(members) if member.isfile() and n != at] or [at])
    return _with_content(_with_content(members, at, members[other][1]), other, members[at][1])


def _damaged(members: Members, at: int, rng: random.Random) -> Members:
    holder = Path(members[at][0].name).suffix
    change = rng.choice(_CHANGES)
    if holder == ".yaml" and rng.random() < 0.7:
        change = yaml_file
    elif holder in (".ckpt", ".pt") and rng.random() < 0.7:
        change = torch_file
    return _with_content(members, at, change(members[at][1], rng))


def _applied(corruption: Corruption) -> Callable[[bytes, random.Random], bytes]:
    """Returns a corruption of a file as a function of bytes."""
    import tempfile

    def change(content: bytes, rng: random.Random) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "member")
            path.write_bytes(content)
            corruption.apply(path, rng)
            return path.read_bytes()

    return change


_CHANGES = [_applied(corruption) for corruption in BYTES]
TAR = (
    _of_members("a member lost", lambda members, at, rng: members[:at] + members[at + 1 :]),
    _of_members("a member doubled", lambda members, at, rng: [*members, members[at]]),
    _of_members("a member renamed", _renamed),
    _of_members("a member is a link", _linked),
    _of_members("two members exchanged", _exchanged),
    *4 * (_of_members("a member damaged", _damaged),),
)


# --- torch ------------------------------------------------------------------------------------------------------------


def torch_file(content: bytes, rng: random.Random) -> bytes:
    """Changes a tensor or another value inside a file of ``torch.save``."""
    value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    tensors = list(_tensors(value))
    if tensors and rng.random() < 0.6:
        container, key = rng.choice(tensors)
        container[key] = rng.choice(_TENSOR_CHANGES)(container[key], rng)
    else:
        _change_inside(value, rng)
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _tensors(value: Any) -> list[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, inner in items:
        found += [(value, key)] if isinstance(inner, torch.Tensor) else _tensors(inner)
    return found


def _change_inside(value: Any, rng: random.Random) -> None:
    """Changes a field, also one of a configuration inside."""
    configs = [
        (holder, key) for holder in [value, *value.values()] if isinstance(holder, dict) for key, inner in holder.items()
        if isinstance(inner, DictConfig | ListConfig)
    ]  # fmt: skip
    if configs and rng.random() < 0.3:
        holder, key = rng.choice(configs)
        changed = change_field(OmegaConf.to_container(holder[key]), rng, (None, True, 0, -1, 1.5, "", "a", [], {}))
        holder[key] = OmegaConf.create(changed)
    else:
        change_field(value, rng)


def _one_value(tensor: torch.Tensor, rng: random.Random, new: Callable[[torch.Tensor], Any]) -> torch.Tensor:
    changed = tensor.clone()
    if changed.numel():
        at = rng.randrange(changed.numel())
        changed.view(-1)[at] = new(changed.view(-1)[at])
    return changed


def _not_finite(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    value = float(rng.choice(["nan", "inf"]))
    return _one_value(tensor, rng, lambda _: value if tensor.is_floating_point() else 1)


_TENSOR_CHANGES = (
    _not_finite,
    lambda tensor, rng: _one_value(tensor, rng, lambda value: ~value if tensor.dtype == torch.bool else value + 1),
    lambda tensor, rng: tensor[None],
    lambda tensor, rng: tensor.reshape(-1)[: tensor.numel() // 2].clone(),
    lambda tensor, rng: tensor.to(torch.float64) if tensor.dtype != torch.float64 else tensor.float(),
    lambda tensor, rng: torch.zeros_like(tensor),
    lambda tensor, rng: torch.randn(3, 3),
    lambda tensor, rng: "not a tensor",
)
TORCH = 8 * (of_bytes("a value of torch.save", torch_file),)


# --- npz, Arrow, TFRecords --------------------------------------------------------------------------------------------


def _npz(content: bytes, rng: random.Random) -> bytes:
    arrays = dict(np.load(io.BytesIO(content)))
    name = rng.choice(sorted(arrays))
    if rng.random() < 0.3:
        del arrays[name]
    else:
        changes = (lambda a: a[:-1], lambda a: a + 1, lambda a: np.full_like(a, np.nan), lambda a: a.astype(np.float16))
        arrays[name] = rng.choice(changes)(arrays[name])
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _arrow(content: bytes, rng: random.Random) -> bytes:
    batch = pa.ipc.open_file(pa.BufferReader(content)).get_batch(0)
    way = rng.choice(["rows", "column lost", "value", "metadata"])
    schema = batch.schema
    if way == "rows":
        batch = batch.slice(1)
    elif way == "metadata":
        batch = batch.replace_schema_metadata({})
    else:
        at = rng.randrange(batch.num_columns)
        columns, names = list(batch.columns), list(schema.names)
        if way == "column lost":
            del columns[at], names[at]
        elif pa.types.is_large_string(columns[at].type):
            columns[at] = pa.array([f"{value}x" for value in columns[at].to_pylist()], columns[at].type)
        else:
            new = rng.choice([0, -1, 7, 10**9])
            columns[at] = pa.array([new, *columns[at].to_pylist()[1:]], columns[at].type)
        batch = pa.RecordBatch.from_arrays(columns, names).replace_schema_metadata(schema.metadata)
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _records(content: bytes) -> list[bytes]:
    """Splits an event file into its TFRecords: length, its checksum, data, their checksum."""
    found, at = [], 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        found.append(content[at : at + 16 + length])
        at += 16 + length
    return found


def _event_record(content: bytes, rng: random.Random) -> bytes:
    records = _records(content)
    at = rng.randrange(len(records))
    position = rng.randrange(12, len(records[at]))  # after the length, so that only the record is damaged
    records[at] = records[at][:position] + bytes([records[at][position] ^ 1]) + records[at][position + 1 :]
    return b"".join(records)


NPZ = 4 * (of_bytes("an array", _npz),)
ARROW = 6 * (of_bytes("a value of the table", _arrow),)
EVENTS = 4 * (of_bytes("a bit of a record", _event_record),)
