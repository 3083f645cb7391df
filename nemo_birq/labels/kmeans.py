"""k-means: with HuBERT's settings for offline relabelling, and on the unit sphere for codebooks."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

CHUNK_FRAMES = 1024  # number of frames whose scores over all codes are in memory at a time
ROUNDS = 30  # iterations on the sphere; more change the mean cosine by less than 0.001


def fit_kmeans(frames: np.ndarray, num_clusters: int, seed: int = 0) -> MiniBatchKMeans:
    """Fits clusters to frames (N, D) float32, without normalization, in Euclidean distance.

    The settings are those of HuBERT (arXiv 2106.07447), except that the batch grows with the number of clusters and there is
    one initialization instead of 20.

    Args:
        frames: (N, D) float32, at least as many as clusters.
        num_clusters: V.
        seed: seed of the initial centres and of the batches.
    """
    kmeans = MiniBatchKMeans(
        num_clusters, random_state=seed, n_init=1, batch_size=max(4096, 2 * num_clusters), max_no_improvement=20,
        reassignment_ratio=0.0,
    )  # fmt: skip
    return kmeans.fit(frames)


def nearest_on_sphere(units: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the largest cosine of each frame with a code, and this code: (N, d), (V, d) -> (N,), (N,) int64."""
    found = [(chunk @ codes.T).max(dim=1) for chunk in units.split(CHUNK_FRAMES)]
    return torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])


def fit_on_sphere(units: Tensor, start: Tensor, generator: torch.Generator) -> Tensor:
    """Moves codes iteratively to the means of their nearest frames (spherical k-means, Dhillon and Modha 2001).
    A code without frames is moved to one of the frames that are farthest from their codes.

    Args:
        units: (N, d) frames of unit length, at least one.
        start: (V, d) initial codes of unit length.
        generator: generator that orders equally distant frames, on the host.

    Returns:
        (V, d) codes of unit length.
    """
    units = units[torch.randperm(len(units), generator=generator).to(units.device)]
    codes = start.clone()
    for _ in range(ROUNDS):
        cosines, nearest = nearest_on_sphere(units, codes)
        sums = torch.zeros_like(codes).index_add_(0, nearest, units)
        empty = torch.bincount(nearest, minlength=len(codes)) == 0
        codes = F.normalize(torch.where(empty.unsqueeze(1), codes, sums), dim=1)
        farthest = cosines.argsort(stable=True)[: int(empty.sum())]
        codes[empty.nonzero()[: len(farthest), 0]] = units[farthest]
    return codes


def matched(codes: Tensor, old: Tensor) -> Tensor:
    """Orders new codes by a one-to-one matching with the old ones: (V, d), (V, d) -> (V, d).
    The matching maximizes the sum of the cosines (the assignment problem), so that heads of the old codes stay valid.
    """
    _, order = linear_sum_assignment(-(old @ codes.T).cpu().numpy())
    return codes[torch.from_numpy(order).to(codes.device)]
