"""Checkpoint averaging: the mean of the weights of several checkpoints of a run.

NeMo's script of that name opens checkpoints in a way that PyTorch 2.6 and later refuse, and builds the model. This module
replaces the weights in the ``.nemo`` and keeps everything else, so that models of any class can be averaged.
"""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from nemo_birq.checkpoint.lightning_checkpoint import read_checkpoint
from nemo_birq.checkpoint.nemo_archive import CHECKSUMS, WEIGHTS, complete_nemo, read_weights, verify_nemo


def average_weights(model: Path, checkpoints: Sequence[Path]) -> dict[str, Tensor]:
    """Returns the mean of the weights of checkpoints, computed in float64; integer tensors come from the ``.nemo``.

    Args:
        model: ``.nemo`` of the run.
        checkpoints: one or more ``.ckpt`` files of the run.

    Raises:
        OSError, ValueError: a file cannot be read or is damaged, or a checkpoint belongs to another model.
    """
    verify_nemo(model)
    own = read_weights(model)
    sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in own.items() if value.is_floating_point()}
    for path in checkpoints:
        weights = read_checkpoint(path).get("state_dict") or {}
        differing = sorted(weights.keys() ^ own.keys()) or [n for n in own if weights[n].shape != own[n].shape]
        if differing:
            raise ValueError(
                f"{path} is not a checkpoint of the model in {model}: {len(differing)} tensors differ, such as "
                f"{differing[0]}. Give a .nemo and checkpoints of one run"
            )
        for name, total in sums.items():
            total += weights[name]
    return {n: (sums[n] / len(checkpoints)).to(value.dtype) if n in sums else value for n, value in own.items()}


def write_with_weights(model: Path, weights: dict[str, Tensor], out: Path) -> None:
    """Writes a copy of a ``.nemo`` with other weights, atomically.

    Raises:
        OSError: the file cannot be written, for example because the disk is full; the message names it.
    """
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    with complete_nemo(out) as part, tarfile.open(model) as old, tarfile.open(part, "w") as new:
        for member in old:
            name = str(PurePosixPath(member.name))
            if name == WEIGHTS:
                member.size = buffer.tell()
                new.addfile(member, io.BytesIO(buffer.getvalue()))
            elif name != CHECKSUMS:
                new.addfile(member, old.extractfile(member) if member.isreg() else None)
