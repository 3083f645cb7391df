"""Rules for files of ``torch.save``, and archives with them, whose zip checksums are right and whose values differ."""

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

import nemo_birq.checkpoint.lightning_checkpoint  # noqa: F401  allows the classes of NeMo's checkpoints

REASON = "the zip checksums of torch.save fit, and all tensors have the shape and type of the good ones"


def torch_values(good: Path, bad: Path) -> str | None:
    """Accepts a file of ``torch.save`` that was written with other values."""
    return REASON if bad.is_file() and _same_torch(good.read_bytes(), bad.read_bytes()) else None


def nemo_values(good: Path, bad: Path) -> str | None:
    """Accepts a ``.nemo`` with the same members, of which only files of ``torch.save`` have other values."""
    if not bad.is_file():
        return None
    try:
        known, found = _members(good), _members(bad)
    except (tarfile.TarError, OSError, EOFError):
        return None
    if known is None or found is None or known.keys() != found.keys():
        return None
    changed = [name for name in known if known[name] != found[name]]
    is_valid = all(name.endswith((".ckpt", ".pt")) and _same_torch(known[name], found[name]) for name in changed)
    return REASON if is_valid else None


def _members(path: Path) -> dict[str, bytes] | None:
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        files = {member.name: archive.extractfile(member).read() for member in members if member.isreg()}
    return files if len(files) == sum(not member.isdir() for member in members) else None


def _same_torch(good: bytes, bad: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(bad)) as archive:
            if archive.testzip() is not None:
                return False
        known, found = (torch.load(io.BytesIO(one), map_location="cpu", weights_only=True) for one in (good, bad))
    except Exception:
        return False
    return _same_form(known, found)


def _same_form(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        is_same = isinstance(other, torch.Tensor) and one.shape == other.shape and one.dtype == other.dtype
        return is_same and bool(torch.isfinite(other.float()).all() or not torch.isfinite(one.float()).all())
    if isinstance(one, DictConfig | ListConfig):
        return isinstance(other, DictConfig | ListConfig) and _same_form(*map(OmegaConf.to_container, (one, other)))
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_same_form(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(_same_form, one, other))
    return type(one) is type(other)
