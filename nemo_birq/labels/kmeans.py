"""k-means with HuBERT's settings (arXiv 2106.07447): what clusters are, wherever this project makes some."""

import numpy as np
from sklearn.cluster import MiniBatchKMeans


def fit_kmeans(frames: np.ndarray, num_clusters: int, seed: int = 0) -> MiniBatchKMeans:
    """Clusters of frames as they are, (N, D) float32: not normalized, in Euclidean distance.

    HuBERT's settings, but for a batch in proportion to the clusters and one start in place of 20.

    Args:
        frames: at least as many as clusters.
        num_clusters: V.
        seed: of the centres to begin with and of the batches.
    """
    kmeans = MiniBatchKMeans(
        num_clusters, random_state=seed, n_init=1, batch_size=max(4096, 2 * num_clusters), max_no_improvement=20,
        reassignment_ratio=0.0,
    )  # fmt: skip
    return kmeans.fit(frames)
