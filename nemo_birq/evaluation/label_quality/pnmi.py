"""Information of labels about phones: purities and PNMI as HuBERT defines them (arXiv 2106.07447, section IV.D).

All are of the joint distribution p(phone, code) over frames. Shapes: N frames, P phones, V codes.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import expected_mutual_information


class Quality(NamedTuple):
    """Scores of one set of labels, which are comparable only between sets with the same number of codes."""

    frames: int
    codes_used: int
    phone_purity: float
    """Share of frames whose phone is the most frequent one of their code; 1 if each frame has its own code."""
    cluster_purity: float
    """Share of frames whose code is the most frequent one of their phone; it falls as codes are added."""
    pnmi: float
    """I(phone; code) / H(phone), the share of the phones' entropy that the codes explain; 0 to 1."""
    pnmi_by_chance: float
    """Expected PNMI if the same codes are assigned to the frames at random; above 0 because the frames are finite."""
    entropy: float
    """Entropy of the codes' frequencies, in nats."""

    @property
    def above_chance(self) -> float:
        """Returns the PNMI above that by chance, which numbers of frames and codes affect less."""
        return self.pnmi - self.pnmi_by_chance


def joint_counts(phones: np.ndarray, codes: np.ndarray, num_phones: int, num_codes: int) -> np.ndarray:
    """Counts the frames of each pair of phone and code: (N,), (N,) integers -> (P, V) int64."""
    pairs = np.bincount(phones * num_codes + codes, minlength=num_phones * num_codes)
    return pairs.reshape(num_phones, num_codes)


def phone_entropy(counts: np.ndarray) -> float:
    """Computes H(phone) in nats from (P, V) counts."""
    return float(entropy(counts.sum(axis=1)))


def score_labels(counts: np.ndarray) -> Quality:
    """Computes the quality of labels with the joint counts (P, V).

    Raises:
        ValueError: there are no frames, or only one phone.
    """
    frames = int(counts.sum())
    used = counts[:, counts.any(axis=0)]
    used = used[used.any(axis=1)]
    if used.shape[0] < 2:
        raise ValueError(f"{frames} frames of {used.shape[0]} phones cannot be measured: at least two phones are needed")
    known = phone_entropy(used)
    return Quality(
        frames=frames,
        codes_used=used.shape[1],
        phone_purity=float(used.max(axis=0).sum() / frames),
        cluster_purity=float(used.max(axis=1).sum() / frames),
        pnmi=float(mutual_info_score(None, None, contingency=used) / known),
        pnmi_by_chance=float(expected_mutual_information(used, frames) / known),
        entropy=float(entropy(used.sum(axis=0))),
    )
