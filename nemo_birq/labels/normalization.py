"""Normalization of an intermediate layer before its random projection.

Encoder features share one large direction and vary along only a few others. Without normalization, nearly all projected
frames get the same few codes and the enhanced labels collapse (docs/labels.md has the measurements).

Shapes: B utterances, T' encoder frames, D encoder width, N valid frames of the batch.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_birq.utils.distributed import sum_over_ranks
from nemo_birq.utils.precision import ExactBuffers

Normalization = Literal["per_feature", "whiten", "layer_norm"]

EPSILON = 1e-5
SHRINKAGE = 1e-3  # share of the mean variance added to every direction, for batches with fewer frames than features


class LayerNormalization(ExactBuffers):
    """Normalizes h^(k) before the projection. The statistics carry no gradient, but the features do.

    * ``per_feature``: zero mean and unit variance of each feature over the valid frames.
    * ``whiten``: zero mean and unit covariance over the valid frames (by a Cholesky factor; any other whitening matrix
      differs by a rotation, and a random projection follows).
    * ``layer_norm``: zero mean and unit variance of each frame over its features, without statistics.

    As in batch normalization, training uses the statistics of its batch, joined over all ranks. Inference uses running
    averages over training batches (before the first one: the current batch), so that the label of a frame does not depend on
    the other utterances of the batch.

    Args:
        dim: D.
        kind: one of the kinds above.
        momentum: weight of the past in the running averages, in [0, 1).
    """

    running_mean: Tensor
    running_covariance: Tensor
    num_updates: Tensor

    def __init__(self, dim: int, kind: Normalization, momentum: float):
        super().__init__()
        self.kind = kind
        self.momentum = momentum
        # Not persistent, for the same reason as the quantizer's buffers; the model stores them beside the projections.
        self.register_buffer("running_mean", torch.zeros(dim), persistent=False)
        covariance = torch.eye(dim) if kind == "whiten" else torch.ones(dim)  # full matrix, or its diagonal
        self.register_buffer("running_covariance", covariance, persistent=False)
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64), persistent=False)

    @property
    def has_statistics(self) -> bool:
        """True if inference does not depend on the batch: running averages exist, or are not needed."""
        return self.kind == "layer_norm" or int(self.num_updates) > 0

    def forward(self, hidden: Tensor, valid: Tensor, frames: Tensor, update: bool = True) -> Tensor:
        """Normalizes selected frames with statistics of all valid ones.

        Args:
            hidden: (B, T', D) output of layer k.
            valid: (B, T') bool, frames inside the true lengths.
            frames: (N,) int64, positions of the frames to return in the flattened (B, T').
            update: update the running averages with this batch, in training. Batches whose labels are only logged must not
                do that, or training would depend on the logging interval.

        Returns:
            The frames (N, D), float32 or the input's float64.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
            selected = hidden.flatten(0, 1)[frames]
            if self.kind == "layer_norm":
                return F.layer_norm(selected, selected.shape[-1:])
            mean, covariance = self._statistics(hidden.detach(), valid, update)
            centred = selected - mean
            if self.kind == "per_feature":
                return centred * (covariance + EPSILON).rsqrt()
            ridge = SHRINKAGE * covariance.diagonal().mean() + EPSILON
            factor, _ = torch.linalg.cholesky_ex(
                covariance + ridge * torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
            )
            return torch.linalg.solve_triangular(factor, centred.T, upper=False).T

    def _statistics(self, hidden: Tensor, valid: Tensor, update: bool) -> tuple[Tensor, Tensor]:
        """Returns mean (D,) and covariance (D, D), or its diagonal (D,); updates the running ones in training."""
        if not self.training and self.num_updates > 0:
            return self.running_mean.to(hidden.dtype), self.running_covariance.to(hidden.dtype)
        count, mean, covariance = _moments(hidden, valid, full=self.kind == "whiten", over_ranks=self.training)
        if not (self.training and update):
            return mean, covariance
        # A plain average over the first batches, until it is as long as the exponential one.
        past = torch.clamp(self.num_updates / (self.num_updates + 1), max=self.momentum).to(self.running_mean)
        past = torch.where(count > 0, past, 1.0)  # no frames on any rank
        self.running_mean.copy_(torch.lerp(mean.to(past), self.running_mean, past))
        self.running_covariance.copy_(torch.lerp(covariance.to(past), self.running_covariance, past))
        self.num_updates += count > 0
        return mean, covariance


def _moments(hidden: Tensor, valid: Tensor, full: bool, over_ranks: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the number of valid frames, their mean (D,) and covariance (D, D), or variances (D,), optionally over ranks.

    Frames outside are set to zero instead of removed, because their number is not known without waiting for the device.
    """
    padding = ~valid.unsqueeze(2)
    total = valid.sum().to(hidden.dtype), hidden.masked_fill(padding, 0.0).sum((0, 1))
    count, first = sum_over_ranks(*total) if over_ranks else total
    mean = first / count.clamp(min=1)
    # Centring before squaring keeps the precision of float32.
    centred = (hidden - mean).masked_fill_(padding, 0.0).flatten(0, 1)
    second = centred.T @ centred if full else centred.square_().sum(0)
    if over_ranks:
        (second,) = sum_over_ranks(second)
    return count, mean, second / count.clamp(min=1)
