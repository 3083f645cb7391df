"""Finds the operations of a training step for which the host would wait for a GPU, and counts its kernels, without a GPU.

The step runs on PyTorch's ``meta`` device, whose tensors have no contents. Masks, lengths and random numbers of the host
stay real. Every operation passes a dispatch mode. It records those that need the contents of a tensor of the device, those
whose result has a size that depends on contents, and copies between host and device that are not asynchronous.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.fx.experimental._config
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
META = torch.device("meta")
NEEDS_CONTENTS = {
    aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select, aten.bincount, aten._unique2,
    aten.unique_consecutive, aten.unique_dim, aten.repeat_interleave,
}  # fmt: skip
NO_KERNEL = {
    aten.view, aten._unsafe_view, aten._reshape_alias, aten.alias, aten.detach, aten.lift_fresh, aten.t, aten.transpose,
    aten.permute, aten.expand, aten.slice, aten.select, aten.unsqueeze, aten.squeeze, aten.split, aten.split_with_sizes,
    aten.unbind, aten.as_strided, aten.diagonal, aten.unfold, aten.empty, aten.empty_like, aten.empty_strided,
    aten.new_empty, aten.new_empty_strided,
}  # fmt: skip
"""Views and allocations."""
NOT_OURS = ("/torch/", "/torchmetrics/", "/lightning/", "contextlib.py", "/benchmarks/device_waits.py")


class Operations(TorchDispatchMode):
    """Records the operations of the device."""

    def __init__(self):
        super().__init__()
        self.waits: Counter[str] = Counter()
        """Number of waits by operation and caller, such as ``nonzero in positions of masking.py``."""
        self.operations: Counter[str] = Counter()
        """Number of operations that launch at least one kernel, by name."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, packet = kwargs or {}, func.overloadpacket
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        target = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
        if "meta" not in devices and target != "meta":
            return func(*args, **kwargs)
        if packet is aten._to_copy and target is not None and {target} != devices:
            copies = not kwargs.get("non_blocking")
        elif packet is aten.copy_:
            copies = "cpu" in devices and not (len(args) > 2 and args[2])
        else:
            copies = False
        if copies or packet in NEEDS_CONTENTS or _has_boolean_index(packet, args):
            self.note(func.name())
        if packet is aten._local_scalar_dense:
            return 1.0 if args[0].is_floating_point() else 1
        if packet not in NO_KERNEL:
            self.operations[str(packet).removeprefix("aten.")] += 1
        return func(*args, **kwargs)

    def note(self, operation: str) -> None:
        """Adds a wait."""
        frames = [f for f in traceback.extract_stack() if not any(part in f.filename for part in NOT_OURS)]
        self.waits[f"{operation} in {frames[-1].name} of {Path(frames[-1].filename).name}"] += 1


def _has_boolean_index(packet: Any, args: tuple) -> bool:
    if packet not in (aten.index, aten.index_put, aten.index_put_):
        return False
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


@contextmanager
def recording() -> Iterator[Operations]:
    """Records the operations of a block of code on the device.

    The ``meta`` device has neither generators nor autocast, so random numbers are drawn without them, and products stay
    float32. If a size depends on contents, all entries count as true.
    """
    generator, autocast, enabled = torch.Generator, torch.autocast, torch.is_autocast_enabled
    operations = Operations()

    def from_host(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Records copies that dispatch does not show: numbers of the host that become a tensor of the device."""

        def made(data: Any, *args: Any, **kwargs: Any) -> Tensor:
            if kwargs.get("device") is not None and torch.device(kwargs["device"]) == META and not isinstance(data, Tensor):
                operations.note(f"torch.{make.__name__}")
            return make(data, *args, **kwargs)

        return made

    class OnHost(generator):
        """A class, because modules that are imported meanwhile name it in annotations."""

        def __new__(cls, device: Any = "cpu") -> torch.Generator:
            return generator()

    def without(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device_type == "meta" else autocast(device_type, *args, **kwargs)

    def is_enabled(device_type: str = "cpu") -> bool:
        return device_type != "meta" and enabled(device_type)

    several = [
        patch(f"{module}._get_foreach_kernels_supported_devices", lambda: ["meta"])
        for module in ("torch.utils._foreach_utils", "torch.optim.optimizer")
    ]  # clipping and optimizer take many tensors at once, as on a GPU
    everything = patch.object(torch.fx.experimental._config, "meta_nonzero_assume_all_nonzero", True)
    replaced = {"Generator": OnHost, "autocast": without, "is_autocast_enabled": is_enabled}
    replaced |= {make.__name__: from_host(make) for make in (torch.tensor, torch.as_tensor)}
    with ExitStack() as stack:
        for change in (
            *several,
            everything,
            patch.multiple(torch, **replaced),
            patch.object(torch.amp, "autocast", without),
        ):
            stack.enter_context(change)
        yield stack.enter_context(operations)
