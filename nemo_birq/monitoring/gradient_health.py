"""Norms of the gradients of both tasks in the encoder, and the cosine between them.

The gradient of an optimizer step is w1 grad F + w2 grad G, and grad F has two paths: through the prediction log p, and
through the label y^(k). Each of the three parts is computed separately, on the graph of the training step and before its
backward pass. The measurement has no side effects: it sets no ``.grad``, triggers no DDP hook and draws no random number.
It costs about one backward pass for each path, hence ``birq.watch.gradient_interval``. It needs memory for one gradient for
each path beside the whole graph; if that is not available, the first step already fails.

With ``16-mixed`` these gradients are not scaled, so small ones underflow; float32 and bfloat16 need no scaling.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nemo_birq.losses.bilevel import BilevelLoss
from nemo_birq.utils.distributed import sum_over_ranks, world_size


class GradientProducts(NamedTuple):
    """Inner products of the gradients of P paths, over all parameters and averaged over ranks as DDP does."""

    names: tuple[str, ...]
    """Names of the paths at this step, from ``anchor`` (w2 G), ``enhanced_prediction`` and ``enhanced_label`` (w1 F)."""
    products: Tensor
    """(P, P) float64, on the model's device."""

    def metrics(self) -> dict[str, float]:
        """Returns the norms ``gradient_norm_*`` of w2 grad G, w1 grad F and its two paths, and the cosine of the two
        gradients."""
        table = self.products.cpu()
        tasks = torch.tensor([[name == "anchor" for name in self.names], [name != "anchor" for name in self.names]]).double()
        squares = [task @ table @ task for task in tasks]
        anchor, enhanced = (float(square.clamp(min=0).sqrt()) for square in squares)  # rounding may give values below 0
        result = {
            f"gradient_norm_{name}": float(square.sqrt()) for name, square in zip(self.names, table.diagonal(), strict=True)
        }
        if len(self.names) > 1:
            result["gradient_norm_enhanced"] = enhanced
            if anchor > 0 and enhanced > 0:
                result["gradient_cosine"] = float(tasks[0] @ table @ tasks[1]) / (anchor * enhanced)
        return result


def split_loss(bilevel_loss: BilevelLoss, terms: dict[str, Any]) -> dict[str, Tensor]:
    """Returns the parts of the loss, whose gradients sum to the gradient of the step.

    Args:
        bilevel_loss: the loss.
        terms: its arguments.
    """
    parts = {}
    targets = terms["targets"]
    if terms["anchor_weight"] > 0:
        parts["anchor"] = bilevel_loss(**terms | {"targets": None})[0]
    if targets is not None and terms["enhanced_weight"] > 0:
        alone = terms | {"anchor_weight": 0.0}
        parts["enhanced_prediction"] = bilevel_loss(**alone | {"targets": targets.detached()})[0]
        if targets.units.requires_grad:
            parts["enhanced_label"] = bilevel_loss(**alone | {"hidden": terms["hidden"].detach()})[0]
    return parts


def gradient_products(parts: dict[str, Tensor], parameters: Iterable[nn.Parameter]) -> GradientProducts | None:
    """Compares the gradients of the parts of a loss; None if no parameter is trained. Every rank must call it.

    Args:
        parts: scalar losses with a graph, which is kept.
        parameters: parameters with respect to which the gradients are computed.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained or not parts:
        return None
    gradients = [
        torch.autograd.grad(part, trained, retain_graph=True, allow_unused=True, materialize_grads=True)
        for part in parts.values()
    ]
    products = torch.zeros(len(parts), len(parts), dtype=torch.float64, device=trained[0].device)
    for of_parameter in zip(*gradients, strict=True):
        (rows,) = sum_over_ranks(torch.stack([gradient.flatten() for gradient in of_parameter]))
        rows = rows.double() / world_size()
        products += rows @ rows.T
    return GradientProducts(tuple(parts), products)
