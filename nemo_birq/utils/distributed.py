"""Sums over the ranks of a distributed run."""

import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of ranks; 1 outside a distributed run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this rank; 0 outside a distributed run."""
    return dist.get_rank() if world_size() > 1 else 0


def sum_over_ranks(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors, each summed over all ranks, without gradient. Every rank must call it, with the same shapes."""
    if world_size() == 1:
        return tensors
    summed = tuple(tensor.detach().clone() for tensor in tensors)
    for tensor in summed:
        dist.all_reduce(tensor)
    return summed
