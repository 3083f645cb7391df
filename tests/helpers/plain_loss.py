"""The objective in plain form, for all frames and codes at once, with gradients by autograd; reference of the fused one."""

from collections.abc import Callable

import torch
from torch import Tensor

import nemo_birq.labels.enhanced
from nemo_birq.labels.enhanced import EnhancedTargets


def log_probs(head, hidden: Tensor) -> Tensor:
    """Computes log p, (N, D) -> (N, H, V), with the convolution of the head."""
    logits = head.decoder_layers(hidden.T.unsqueeze(0))[0].T
    logits = logits.unflatten(1, (head.num_classes, head.num_decoders)).transpose(1, 2)
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def gumbel(targets: EnhancedTargets, chunk_frames: int) -> Tensor:
    """Returns the noise that is drawn in chunks, (N, H, V)."""
    generator = torch.Generator().manual_seed(targets.seed)
    num_frames, num_codes = len(targets.units), targets.codebook.shape[1]
    books = []
    for _ in range(targets.codebook.shape[0]):
        sizes = [min(chunk_frames, num_frames - start) for start in range(0, num_frames, chunk_frames)]
        like = [torch.empty(size, num_codes, dtype=targets.units.dtype) for size in sizes]
        noise = [nemo_birq.labels.enhanced.gumbel_noise(chunk, generator) for chunk in like]
        books.append(torch.cat(noise) if noise else torch.empty(0, num_codes, dtype=targets.units.dtype))
    return torch.stack(books, dim=1)


def soft_labels(targets: EnhancedTargets, chunk_frames: int = 256) -> Tensor:
    """Returns y^(k), (N, H, V), with its graph."""
    scores = torch.einsum("nhd,hvd->nhv", targets.units, targets.codebook.to(targets.units.dtype))
    if not targets.noisy:
        nearest = torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)
        return nearest if targets.hard else (targets.logit_scale * scores).softmax(-1)
    soft = ((targets.logit_scale * scores + gumbel(targets, chunk_frames)) / targets.temperature).softmax(-1)
    if not targets.hard:
        return soft
    one_hot = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    return one_hot + (soft - soft.detach())


def losses(
    terms: dict, chunk_frames: int = 256, of_labels: Callable = lambda x: x, of_prediction: Callable = lambda x: x
) -> tuple[Tensor, Tensor]:
    """Returns the means G and F for the arguments of ``BilevelLoss``; F is 0 without targets.

    Args:
        of_labels, of_prediction: applied to y^(k) and log p in F, such as ``torch.detach``.
    """
    anchor = log_probs(terms["anchor_head"], terms["hidden"])
    g = -anchor.gather(2, terms["anchor_labels"].unsqueeze(2)).mean()
    if terms["targets"] is None:
        return g, torch.zeros(())
    labels = of_labels(soft_labels(terms["targets"], chunk_frames))
    enhanced = of_prediction(log_probs(terms["enhanced_head"], terms["hidden"]))
    return g, -(labels * enhanced).sum(2).mean()
