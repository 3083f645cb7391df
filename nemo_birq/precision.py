"""Whether the device computes in the precision that is asked for."""

import torch


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
