"""Peak speed of a device, measured as the FLOP/s of a large matrix product."""

import time
from functools import cache

import torch

SIZES = {"cpu": (512, 1024), "cuda": (4096, 8192)}  # rows and columns; larger matrices are not faster
REPEATS = {"cpu": 4, "cuda": 20}
LIMIT = 1.0  # seconds


def training_dtype(precision: str) -> torch.dtype:
    """Returns the dtype of matrix products for a precision of Lightning's trainer, such as ``bf16-mixed``."""
    prefixes = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
    return next((dtype for prefix, dtype in prefixes.items() if precision.startswith(prefix)), torch.float32)


@cache
@torch.no_grad()
def matrix_product_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Measures the FLOP/s of the fastest matrix product, which no training step can exceed, in about one second at most.

    The factors are random, because a GPU multiplies constants faster. Waits for the device. Each process measures once.

    Args:
        device: a CPU or a GPU.
        dtype: dtype of the factors. Products of float32 use TF32 if PyTorch is set to it.
    """
    kind = device.type if device.type in SIZES else "cuda"
    generator = torch.Generator(device).manual_seed(0)
    best, began = 0.0, time.perf_counter()
    for size in SIZES[kind]:
        left, right = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
        for _ in range(REPEATS[kind]):
            best = max(best, 2 * size**3 / _seconds(left, right))
            if time.perf_counter() - began > LIMIT:
                return best
    return best


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    _wait(left.device)
    began = time.perf_counter()
    left @ right
    _wait(left.device)
    return max(time.perf_counter() - began, 1e-9)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
