"""Precision: buffers that keep theirs, and checks that the device supports the one that is asked for."""

import torch
from torch import nn


class ExactBuffers(nn.Module):
    """Its own buffers follow the module to a device, but never to another dtype.

    Codes, projections and statistics must stay float32 when a trainer casts the whole model (``precision=bf16-true``), or
    frames would change their nearest code.
    """

    def _apply(self, fn, recurse=True):
        exact = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, tensor in exact.items():
            setattr(self, name, tensor.to(getattr(self, name).device))
        return self


def check_precision(precision: str, device: torch.device) -> None:
    """Refuses a precision that the device would emulate: PyTorch does so in silence, many times slower.

    On a CPU Lightning says that it takes bfloat16 in place of ``16-mixed``.

    Args:
        precision: of Lightning's trainer, such as ``bf16-mixed``.
        device: of the model.

    Raises:
        ValueError: with the precisions that remain.
    """
    if (
        precision.startswith("bf16")
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise ValueError(
            f"trainer.precision={precision}: {torch.cuda.get_device_name(device)} has no bfloat16. Use 16-mixed, or 32."
        )
