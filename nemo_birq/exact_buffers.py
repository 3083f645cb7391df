"""Buffers that keep their precision."""

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
