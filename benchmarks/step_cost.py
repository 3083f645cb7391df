"""Measures the cost of a training step besides time: memory, floating point operations, and its largest tensor.

Memory is measured in a separate process for each variant, so that no other model is counted. These processes are forked from
one that has imported everything and has done no other work.
"""

import gc
import os
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import torch
from flop_counting import flop_counter
from step_variants import Setting, build
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

STEPS = 2  # the second one has the state of the optimizer


class LargestTensor(TorchDispatchMode):
    """Finds the largest tensor that an operation makes, also in the backward pass, without views and in-place results.

    Args:
        with_dimension: consider only tensors with a dimension of this size; None: all.
    """

    def __init__(self, with_dimension: int | None = None):
        super().__init__()
        self.with_dimension = with_dimension
        self.bytes, self.what = 0, ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in known:
                size = tensor.untyped_storage().nbytes()
                if size > self.bytes and self.with_dimension in (None, *tensor.shape):
                    self.bytes = size
                    self.what = f"{func.name()} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
        return result


def cost_alone(name: str, setting: Setting) -> dict:
    """Returns memory, operations and largest tensor of a step of one variant, in a process that was started for it.

    Memory is in bytes: ``peak`` of the process (CPU; resident) or of PyTorch's allocator (GPU), ``libraries`` before the
    model is built, and ``idle`` before the first step.
    """
    setting.prepare()
    batch = setting.batch()
    libraries = memory_now(setting.device)
    variant = build(name, setting)
    gc.collect()
    idle = memory_now(setting.device)
    reset_peak(setting.device)
    for _ in range(STEPS):
        variant.step(batch)
    result = {"peak": peak_memory(setting.device), "libraries": libraries, "idle": idle}
    codes = setting.model_config().birq.quantizer.num_codes
    with flop_counter() as flops, LargestTensor() as largest, LargestTensor(codes) as of_codes:
        variant.step(batch)
    return result | {
        "flop": flops.get_total_flops(),
        "largest_tensor": largest.bytes,
        "largest_tensor_is": largest.what,
        "largest_of_codes": of_codes.bytes,
        "largest_of_codes_is": of_codes.what,
        "trained_parameters": sum(parameter.numel() for parameter in variant.trained),
    }


def costs(names: list[str], setting: Setting, done: Callable[[str], None] = lambda name: None) -> dict[str, dict]:
    """Returns ``cost_alone`` of each variant, each from a new process; ``done`` is called after each."""
    result = {}
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["nemo.collections.asr.models", "nemo_birq"])  # this folder is not on its path
    for name in names:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            result[name] = pool.submit(cost_alone, name, setting).result()
        done(name)
    return result


def memory_now(device: str) -> int:
    """Returns the bytes in use: of the allocator on a GPU, otherwise resident in this process."""
    if device == "cuda":
        return torch.cuda.memory_allocated()
    if not sys.platform.startswith("linux"):
        return 0
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def reset_peak(device: str) -> None:
    """Restarts the measurement of the peak, if the system supports it (GPU, Linux)."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform.startswith("linux"):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: str) -> int:
    """Returns the most bytes in use since ``reset_peak``."""
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    if sys.platform.startswith("linux"):
        status = Path("/proc/self/status").read_text()
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def largest_fitting(fits: Callable[[int], bool], start: int, most: int) -> int:
    """The largest whole number up to ``most`` for which ``fits`` says yes, found by doubling and halving; 0 if none.

    Args:
        fits: monotonous: what fits also fits with less.
        start: where to begin, at least 1.
        most: where to end.
    """
    low, high = 0, min(start, most)
    while fits(high):
        low = high
        if low == most:
            return most
        high = min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
