"""Random numbers that follow from one generator on the host, on any device and without waiting for it."""

import numpy as np
import torch
from torch import Tensor

STREAMS = ("train", "validation", "dropout")


def step_seed(seed: int, rank: int, stream: str, *position: int) -> int:
    """Returns a seed that depends on its arguments alone: ranks differ, and a resumed run repeats nothing.

    Args:
        seed: of the run.
        rank: of this process.
        stream: one of ``STREAMS``.
        position: such as optimizer step and micro-batch.
    """
    entropy = (seed, rank, STREAMS.index(stream), *position)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def draw_seed(generator: torch.Generator | None) -> int:
    """A seed for another generator, drawn from one on the host (None: PyTorch's own)."""
    return int(torch.randint(torch.iinfo(torch.int64).max, (), generator=generator))


def seeded(device: torch.device, seed: int) -> torch.Generator:
    """A generator on a device."""
    return torch.Generator(device).manual_seed(seed)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor from the host. From pinned memory, so that the host does not wait until the device has caught up."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
