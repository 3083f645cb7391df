"""Buffers that keep their dtype, and a check that the device supports the requested precision."""

import torch
from torch import nn


class ExactBuffers(nn.Module):
    """A module whose own buffers follow it to a device, but never to another dtype.

    Codes, projections and statistics must stay float32 when a trainer casts the whole model (``precision=bf16-true``).
    Otherwise the nearest codes of frames would change.
    """

    def _apply(self, fn, recurse=True):
        exact = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, tensor in exact.items():
            setattr(self, name, tensor.to(getattr(self, name).device))
        return self


def check_precision(precision: str, device: torch.device) -> None:
    """Refuses a precision that the device would emulate, which PyTorch does silently and many times slower.

    No check is needed for ``16-mixed`` on a CPU: Lightning replaces it by bfloat16 and logs that.

    Args:
        precision: precision of Lightning's trainer, such as ``bf16-mixed``.
        device: device of the model.

    Raises:
        ValueError: the GPU does not support bfloat16; the message names the alternatives.
    """
    if (
        precision.startswith("bf16")
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise ValueError(
            f"trainer.precision={precision}: {torch.cuda.get_device_name(device)} does not support bfloat16. Use "
            "16-mixed or 32."
        )
