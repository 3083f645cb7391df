"""PyTorch's counter of operations, with corrections of its two errors in a step of a Conformer.

* It counts the weight gradient of a grouped convolution as that of a full one. For the depthwise convolution of a layer of
  width D, this is D times too much, and a fifth of all operations of a Conformer step.
* It does not count ``addmm_``, which accumulates the gradient of a prediction head in place.

The closed form that trainings log (``nemo_birq.monitoring.step_flops``) is compared with this counter in
tests/unit/test_step_flops.py.
"""

from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten


def _convolution_backward(of_output: torch.Size, inputs: torch.Size, weight: torch.Size, *settings: Any, **_: Any) -> int:
    """Counts one convolution for each requested gradient, because all have the same products."""
    _, _, _, _, transposed, _, _, wanted = settings
    places = prod((inputs if transposed else of_output)[2:])
    return 2 * of_output[0] * places * prod(weight) * sum(wanted[:2])


def _addmm_in_place(target: torch.Size, left: torch.Size, right: torch.Size, **_: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


def flop_counter() -> FlopCounterMode:
    """Returns a context in which operations are counted; ``get_total_flops`` reads it."""
    mapping = {aten.convolution_backward: _convolution_backward, aten.addmm_: _addmm_in_place}
    return FlopCounterMode(display=False, custom_mapping=mapping)
