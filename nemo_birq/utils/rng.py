"""Random numbers that follow from one generator on the host, on any device and without waiting for it."""

import torch
from torch import Tensor


def draw_seed(generator: torch.Generator | None) -> int:
    """A seed for another generator, drawn from one on the host (None: PyTorch's own)."""
    return int(torch.randint(torch.iinfo(torch.int64).max, (), generator=generator))


def seeded(device: torch.device, seed: int) -> torch.Generator:
    """A generator on a device."""
    return torch.Generator(device).manual_seed(seed)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor from the host. From pinned memory, so that the host does not wait until the device has caught up."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
