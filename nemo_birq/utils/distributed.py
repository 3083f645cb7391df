"""Sums and gathered values over the ranks of a distributed run."""

from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world_size() -> int:
    """Returns the number of ranks; 1 outside a distributed run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Returns the number of this rank; 0 outside a distributed run."""
    return dist.get_rank() if world_size() > 1 else 0


def gather_over_ranks(value: T) -> list[T]:
    """Returns the values of all ranks, in the order of the ranks. Every rank must call it.

    Args:
        value: small object that pickle can write.
    """
    if world_size() == 1:
        return [value]
    gathered: list[T] = [value] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def sum_over_ranks(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Sums each tensor over all ranks (all-reduce), without gradient. Every rank must call it, with the same shapes."""
    if world_size() == 1:
        return tensors
    summed = tuple(tensor.detach().clone() for tensor in tensors)
    for tensor in summed:
        dist.all_reduce(tensor)
    return summed
