"""Prediction heads, their softmax and both cross-entropies in one autograd function that processes chunks of frames.

A direct implementation of the objective stores a dozen N x V tensors for its backward pass: logits, log-probabilities,
scores, noise and labels of every masked frame. All of them can be computed from (N, D) and (N, H, d). The loss is a scalar,
so the gradient of a chunk is known as soon as its logits are. This function computes it at once and frees everything of
size V with the chunk. No product is computed twice.

With p the softmax of the logits z of a head, y the anchor label (one-hot), q = y^(k) the enhanced label and s its scores,
for each frame t:

    d(w2 G)/dz = w2 (p - y)        d(w1 F)/dz = w1 (p - q)
    d(w1 F)/ds = w1 / tau * q * (-log p - F_t)          with F_t = -sum_v q_v log p_v

Shapes: N masked frames, n frames of a chunk, D encoder width, H codebooks, d code dimension, V codes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from nemo.collections.asr.modules import MultiSoftmaxDecoder
from torch import Tensor

from nemo_birq.labels.enhanced import EnhancedTargets, Selection
from nemo_birq.utils.rng import seeded

CPU_CHUNK_FRAMES = 256
CHUNK_LOGITS = 2**25
"""Logits of a chunk on a GPU. A float32 tensor of them has 128 MiB, and five exist at a time."""


class CrossEntropies(NamedTuple):
    """Losses and statistics of N frames, as sums over frames and means over codebooks."""

    weighted: Tensor
    """Scalar w1 F + w2 G, the only field with a gradient."""
    anchor: Tensor
    """Scalar, the anchor loss in nats."""
    enhanced: Tensor
    """Scalar, the enhanced loss in nats; 0 without enhanced labels."""
    anchor_predicted: Tensor
    """(N, H) int64, the most probable code of the anchor head."""
    enhanced_predicted: Tensor | None
    """(N, H) int64, the same of the enhanced head; None without enhanced labels, as the next two fields."""
    picked: Tensor | None
    """(N, H) int64, the selected codes; see ``labels.enhanced.Selection``."""
    nearest: Tensor | None
    """(N, H) int64, the nearest codes; see ``labels.enhanced.Selection``."""
    label_mass: Tensor | None
    """(H, V) float32, the number of times each code is selected, or its sum in soft labels; None without enhanced labels, as
    the next three fields."""
    floor: Tensor | None
    """Scalar, the lowest possible loss in nats: the entropy of ``Selection.expected``."""
    reachable: Tensor | None
    """Scalar, the highest possible mean number of correctly predicted frames."""
    correct: Tensor | None
    """Scalar, the number of correctly predicted frames; a soft label counts with its share of the most probable code."""


def fused_cross_entropies(
    hidden: Tensor,
    anchor_labels: Tensor,
    anchor_head: MultiSoftmaxDecoder,
    enhanced_head: MultiSoftmaxDecoder,
    targets: EnhancedTargets | None,
    anchor_weight: float,
    enhanced_weight: float,
    chunk_frames: int | None = None,
) -> CrossEntropies:
    """Computes both cross-entropies of N frames.

    The products with the heads have the precision of autocast, or of ``hidden``; all other arithmetic is float32 (float64
    for float64 input).

    Args:
        hidden: (N, D) encoder output of the masked pass.
        anchor_labels: (N, H) int64.
        anchor_head, enhanced_head: two heads, or the same head twice. Both get a gradient, which may be zero.
        targets: definition of the enhanced labels, or None.
        anchor_weight, enhanced_weight: w2 and w1.
        chunk_frames: n, number of frames whose logits, labels and gradients over all codes are in memory at a time; None:
            ``default_chunk_frames``. The Gumbel noise is drawn for each chunk, so it depends on n.
    """
    kind = hidden.device.type
    shared = enhanced_head is anchor_head
    settings = _Settings(
        anchor_labels=anchor_labels,
        targets=targets,
        anchor_weight=anchor_weight,
        enhanced_weight=enhanced_weight,
        dtype=torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype,
        chunk_frames=chunk_frames or default_chunk_frames(kind, anchor_head.num_classes),
        differentiate=torch.is_grad_enabled(),
    )
    units = None if targets is None else targets.units
    parameters = [(head.decoder_layers[0].weight, head.decoder_layers[0].bias) for head in (anchor_head, enhanced_head)]
    with torch.autocast(kind, enabled=False):
        results = _FusedCrossEntropies.apply(
            hidden, units, *parameters[0], *((None, None) if shared else parameters[1]), settings
        )
    weighted, anchor, enhanced, codes, mass, of_labels = results
    if targets is None:
        return CrossEntropies(weighted, anchor, enhanced, codes[0], *[None] * 7)
    return CrossEntropies(weighted, anchor, enhanced, *codes, mass, *of_labels)


def default_chunk_frames(device_type: str, num_codes: int) -> int:
    """Returns n for a device: few frames for the caches of a CPU, and few launches of kernels for all others."""
    return CPU_CHUNK_FRAMES if device_type == "cpu" else max(CPU_CHUNK_FRAMES, CHUNK_LOGITS // num_codes)


@dataclass(frozen=True)
class _Settings:
    """Arguments of the function other than tensors that may have a gradient."""

    anchor_labels: Tensor
    targets: EnhancedTargets | None
    anchor_weight: float
    enhanced_weight: float
    dtype: torch.dtype
    chunk_frames: int
    differentiate: bool
    """True if autograd records the graph."""


_Weighted = tuple[Tensor, float]
"""Labels and the weight of their task."""


class _Head:
    """A prediction head: computes the logits of a chunk, and accumulates the gradients over chunks."""

    def __init__(self, weight: Tensor, bias: Tensor | None, num_books: int, dtype: torch.dtype, wanted: bool):
        # As in NeMo's MultiSoftmaxDecoder: a convolution of width 1 whose outputs are ordered by code, then by codebook.
        self.weight = weight.view(-1, num_books, weight.shape[1]).to(dtype)
        self.bias = None if bias is None else bias.view(-1, num_books).to(dtype)
        self.wanted = wanted
        if wanted:
            exact = torch.promote_types(dtype, torch.float32)
            self.weight_gradient = torch.zeros_like(self.weight, dtype=exact)
            self.bias_gradient = None if bias is None else torch.zeros_like(self.bias, dtype=exact)

    def predict(self, hidden: Tensor, book: int) -> tuple[Tensor, Tensor]:
        """Computes log-probabilities and probabilities: (n, D) -> 2 x (n, V)."""
        logits = F.linear(hidden, self.weight[:, book], None if self.bias is None else self.bias[:, book])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        probs = logits.sub_(logits.amax(dim=1, keepdim=True)).exp()
        total = probs.sum(dim=1, keepdim=True)
        return logits.sub_(total.log()), probs.div_(total)

    def backward(self, of_logits: Tensor, hidden: Tensor, book: int) -> Tensor:
        """Accumulates the gradient of the logits of a chunk (n, V); returns the gradient of its frames (n, D)."""
        rounded = of_logits.to(hidden.dtype)
        if self.wanted:
            gathered = self.weight_gradient[:, book]
            if gathered.dtype == rounded.dtype:
                gathered.addmm_(rounded.T, hidden)
            else:
                gathered += rounded.T @ hidden
            if self.bias_gradient is not None:
                self.bias_gradient[:, book] += of_logits.sum(0)
        return rounded @ self.weight[:, book]

    def gradients(self, scale: float) -> tuple[Tensor | None, Tensor | None]:
        """Returns the gradients of weight (V * H, D, 1) and bias (V * H,)."""
        if not self.wanted:
            return None, None
        bias = None if self.bias_gradient is None else self.bias_gradient.mul_(scale).flatten()
        return self.weight_gradient.mul_(scale).flatten(0, 1).unsqueeze(2), bias


def _of_logits(probs: Tensor, labels: _Weighted | None, soft: _Weighted | None) -> Tensor:
    """Computes the gradient of the logits of a head by the formulas above, in place of its probabilities.

    Args:
        probs: (n, V).
        labels: (n,) codes.
        soft: (n, V) distributions.
    """
    gradient = probs.mul_(sum(weight for _, weight in filter(None, (labels, soft))))
    if soft is not None:
        gradient.sub_(soft[0], alpha=soft[1])
    if labels is not None:
        gradient.scatter_add_(1, labels[0].unsqueeze(1), gradient.new_full((len(gradient), 1), -labels[1]))
    return gradient


def _of_units(selection: Selection, log_probs: Tensor, targets: EnhancedTargets, book: int) -> Tensor:
    """Computes the gradient of F with respect to unit vectors, (n, d)."""
    expected = -torch.linalg.vecdot(selection.soft, log_probs)
    of_scores = (-expected.unsqueeze(1) - log_probs).mul_(selection.soft)
    return (of_scores @ targets.codebook[book].to(of_scores.dtype)) * (targets.logit_scale / targets.temperature)


class _Sums:
    """Losses, codes and gradients, accumulated over chunks."""

    def __init__(self, hidden: Tensor, units: Tensor | None, heads: list[_Head], settings: _Settings, wanted: list[bool]):
        self.settings, self.heads = settings, heads
        self.differentiate, self.wants_units = any(wanted), wanted[1]
        self.frames = hidden.to(settings.dtype)
        exact = torch.promote_types(settings.dtype, torch.float32)
        device = hidden.device
        self.anchor, self.enhanced = torch.zeros(2, dtype=exact, device=device)
        self.of_frames = torch.zeros(hidden.shape, dtype=exact, device=device)
        self.of_units = torch.zeros_like(units) if self.wants_units else None
        num_kinds = 1 if settings.targets is None else 4
        self.codes = torch.empty(num_kinds, *settings.anchor_labels.shape, dtype=torch.int64, device=device)
        self.generator = None if settings.targets is None else seeded(device, settings.targets.seed)
        codebook_shape = (0, 0) if settings.targets is None else settings.targets.codebook.shape[:2]
        self.mass = torch.zeros(codebook_shape, dtype=torch.float32, device=device)
        self.of_labels = torch.zeros(3, dtype=exact, device=device)

    def add(self, rows: slice, book: int) -> None:
        """Adds a chunk."""
        head, chunk, labels = self.heads[0], self.frames[rows], self.settings.anchor_labels[rows, book]
        log_probs, probs = head.predict(chunk, book)
        self.anchor -= log_probs.gather(1, labels.unsqueeze(1)).sum()
        self.codes[0, rows, book] = log_probs.argmax(dim=1)
        of_labels, of_soft = (labels, self.settings.anchor_weight), None
        if self.settings.targets is not None:
            if len(self.heads) == 2:  # finishes the anchor head, to free its tensors
                self._differentiate(head, probs, of_labels, None, rows, book)
                head, of_labels = self.heads[1], None
                log_probs, probs = head.predict(chunk, book)
            of_soft = self._add_enhanced(log_probs, rows, book), self.settings.enhanced_weight
        self._differentiate(head, probs, of_labels, of_soft, rows, book)

    def _add_enhanced(self, log_probs: Tensor, rows: slice, book: int) -> Tensor:
        """Adds the losses of predictions (n, V) for the enhanced labels, and returns the labels."""
        targets, weight = self.settings.targets, self.settings.enhanced_weight
        selection = targets.select(rows, book, self.generator)
        self.enhanced -= torch.linalg.vecdot(selection.labels, log_probs).sum()
        found = log_probs.argmax(dim=1), selection.picked, selection.nearest
        for kind, codes in enumerate(found, start=1):
            self.codes[kind, rows, book] = codes
        self._add_statistics(selection, found[0], targets.noisy, book)
        if self.wants_units and weight > 0:
            self.of_units[rows, book] = weight * _of_units(selection, log_probs, targets, book)
        return selection.labels

    def _add_statistics(self, selection: Selection, predicted: Tensor, noisy: bool, book: int) -> None:
        """Adds to ``label_mass``, ``floor``, ``reachable`` and ``correct`` of ``CrossEntropies``."""
        expected, picked = selection.expected, selection.picked
        if noisy:
            self.mass[book].scatter_add_(0, picked, torch.ones_like(picked, dtype=self.mass.dtype))
            correct = picked == predicted
        else:
            self.mass[book] += selection.labels.sum(dim=0)
            correct = selection.labels.gather(1, predicted.unsqueeze(1))
        sums = torch.special.entr(expected).sum(), expected.amax(dim=1).sum(), correct.sum()
        self.of_labels += torch.stack([value.to(self.of_labels) for value in sums])

    def _differentiate(
        self, head: _Head, probs: Tensor, labels: _Weighted | None, soft: _Weighted | None, rows: slice, book: int
    ) -> None:
        """Adds the gradients of the predictions (n, V) of a head, and overwrites the predictions."""
        if self.differentiate and any(weight > 0 for _, weight in filter(None, (labels, soft))):
            of_logits = _of_logits(probs, labels, soft)
            self.of_frames[rows] += head.backward(of_logits, self.frames[rows], book)


class _FusedCrossEntropies(torch.autograd.Function):
    """Autograd function that computes the losses and the gradients of ``weighted`` together; backward only scales them."""

    @staticmethod
    def forward(ctx, hidden, units, anchor_weight, anchor_bias, enhanced_weight, enhanced_bias, settings):
        wanted = [settings.differentiate and needed for needed in ctx.needs_input_grad[:6]]
        num_frames, num_books = settings.anchor_labels.shape
        heads = [_Head(anchor_weight, anchor_bias, num_books, settings.dtype, wanted[2])]
        if enhanced_weight is not None:
            heads.append(_Head(enhanced_weight, enhanced_bias, num_books, settings.dtype, wanted[4]))
        sums = _Sums(hidden, units, heads, settings, wanted)
        for book in range(num_books):
            for start in range(0, num_frames, settings.chunk_frames):
                sums.add(slice(start, start + settings.chunk_frames), book)

        scale = 1 / num_books
        gradients = [sums.of_frames.mul_(scale) if wanted[0] else None, sums.of_units.mul_(scale) if wanted[1] else None]
        for head in heads:
            gradients += head.gradients(scale)
        if enhanced_weight is None:
            gradients += None, None
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [
            None if t is None else t.dtype
            for t in (hidden, units, anchor_weight, anchor_bias, enhanced_weight, enhanced_bias)
        ]
        anchor, enhanced = sums.anchor * scale, sums.enhanced * scale
        weighted = settings.anchor_weight * anchor + settings.enhanced_weight * enhanced
        statistics = anchor, enhanced, sums.codes, sums.mass, sums.of_labels * scale
        ctx.mark_non_differentiable(*statistics)
        return weighted, *statistics

    @staticmethod
    def backward(ctx, of_weighted, *_):
        gradients = (
            None if gradient is None else (of_weighted * gradient).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return *gradients, None
