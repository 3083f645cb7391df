"""Random numbers on any device, derived from one generator on the host so that no call waits for the device."""

import numpy as np
import torch
from torch import Tensor

STREAMS = ("train", "validation", "dropout")


def step_seed(seed: int, rank: int, stream: str, *position: int) -> int:
    """Returns a seed that depends only on its arguments: ranks differ, and a resumed run repeats no random numbers.

    Args:
        seed: seed of the run.
        rank: rank of this process.
        stream: one of ``STREAMS``.
        position: position in the stream, such as optimizer step and micro-batch.
    """
    entropy = (seed, rank, STREAMS.index(stream), *position)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def draw_seed(generator: torch.Generator | None) -> int:
    """Draws the seed of another generator from one on the host (None: PyTorch's default generator)."""
    return int(torch.randint(torch.iinfo(torch.int64).max, (), generator=generator))


def seeded(device: torch.device, seed: int) -> torch.Generator:
    """Returns a seeded generator on a device."""
    return torch.Generator(device).manual_seed(seed)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor from the host, through pinned memory so that the host does not wait for the device."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
