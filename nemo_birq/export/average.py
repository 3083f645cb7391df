"""Averages the weights of several checkpoints of a run (checkpoint averaging, as NeMo's script of that name).

NeMo's script opens checkpoints in a way that PyTorch 2.6 and later refuse, and builds the model. Here the weights in the
``.nemo`` are replaced and everything else in it stays, so that models of any class can be averaged.
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
    """Returns the mean of the weights of checkpoints, computed in float64; whole numbers are those of the ``.nemo``.

    Args:
        model: a ``.nemo`` of the run.
        checkpoints: one or more ``.ckpt`` files of the run.

    Raises:
        OSError, ValueError: a file that cannot be read or is damaged, or a checkpoint of another model.
    """
    verify_nemo(model)
    own = read_weights(model)
    sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in own.items() if value.is_floating_point()}
    for path in checkpoints:
        weights = read_checkpoint(path).get("state_dict") or {}
        differing = sorted(weights.keys() ^ own.keys()) or [n for n in own if weights[n].shape != own[n].shape]
        if differing:
            raise ValueError(
                f"{path} is no checkpoint of the model in {model}: {len(differing)} tensors differ, such as {differing[0]}. "
                "Name a .nemo and checkpoints of one run"
            )
        for name, total in sums.items():
            total += weights[name]
    return {n: (sums[n] / len(checkpoints)).to(value.dtype) if n in sums else value for n, value in own.items()}


def write_with_weights(model: Path, weights: dict[str, Tensor], out: Path) -> None:
    """Writes a copy of a ``.nemo`` with other weights, complete or not at all.

    Raises:
        OSError: naming the file, such as for a full disk.
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
