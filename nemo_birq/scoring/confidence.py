"""Confidence intervals of error rates, and tests of the difference of two models on one test set.

An error rate is a ratio of sums over utterances, errors / words. Its interval comes from the bootstrap (Bisani and Ney,
ICASSP 2004): utterances are resampled with replacement, and the interval contains 95 % of the resulting ratios. This assumes
independent utterances, but utterances of one speaker are not independent. If speakers are known, resampling speakers with
all their utterances estimates the error rate on other speakers, and the interval is wider.
"""

import numpy as np
from scipy import stats

RESAMPLES = 2000
PERMUTATIONS = 9999
BATCH = 200  # resamples in memory at a time


def ratio_interval(errors: np.ndarray, units: np.ndarray, seed: int = 0) -> tuple[float, float] | None:
    """Computes the 95 % bootstrap percentile interval of sum(errors) / sum(units); None for fewer than two rows.

    Shapes: (N,), (N,); a row is an utterance or a speaker.
    """
    if len(errors) < 2:
        return None

    def ratio(errors: np.ndarray, units: np.ndarray, axis: int) -> np.ndarray:
        return errors.sum(axis) / np.maximum(units.sum(axis), 1)  # 0 instead of a division by 0 if no drawn row has words

    found = stats.bootstrap(
        (np.asarray(errors), np.asarray(units)), ratio, paired=True, vectorized=True, method="percentile",
        n_resamples=RESAMPLES, batch=BATCH, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def jackknife_interval(whole: float, without: np.ndarray) -> tuple[float, float] | None:
    """Computes the 95 % interval of an estimate from independent groups, such as speakers; None for fewer than two.

    The variance is that of the jackknife (Efron and Stein, 1981), and the interval has the quantiles of Student's t with
    G - 1 degrees of freedom. For the mean of one number a group, this is the interval of the t test. Unlike percentiles of a
    bootstrap, it is not too narrow for few groups.

    Args:
        whole: the estimate from all G groups.
        without: (G,) estimates, each without one group.
    """
    groups = len(without)
    if groups < 2:
        return None
    error = np.sqrt((groups - 1) * np.var(without))
    half = float(stats.t.ppf(0.975, groups - 1) * error)
    return whole - half, whole + half


def sum_by(names: list[str], *counts: np.ndarray) -> list[np.ndarray]:
    """Sums each array, (N,), over the rows of each name: (number of names,)."""
    rows = np.unique(names, return_inverse=True)[1]
    return [np.bincount(rows, weights=values) for values in counts]


def permutation_p(first: np.ndarray, second: np.ndarray, seed: int = 0) -> float:
    """Computes the two-sided p value of the paired permutation test, which exchanges the models at random for each row.

    The arguments are the errors of both models, (N,) each; a row is an utterance or a speaker. The test is exact for N up to
    13, where all 2^N exchanges are listed; otherwise the smallest possible p is 2 / (PERMUTATIONS + 1).
    """
    if len(first) < 2 or np.array_equal(first, second):  # both exchanges of a single row are equally far from 0
        return 1.0

    def difference(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
        return (first - second).sum(axis)

    found = stats.permutation_test(
        (np.asarray(first, float), np.asarray(second, float)), difference, permutation_type="samples", vectorized=True,
        n_resamples=PERMUTATIONS, batch=BATCH, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def matched_pairs_p(first: np.ndarray, second: np.ndarray) -> float:
    """Computes the two-sided p value of the matched pairs sentence-segment word error test; a segment is an utterance.

    Gillick and Cox, ICASSP 1989: for equally good models and many utterances (about 50), the mean difference of errors,
    divided by its standard error, has a standard normal distribution.
    """
    difference = np.asarray(first, float) - np.asarray(second, float)
    if not difference.any():
        return 1.0
    if len(difference) < 2 or not (deviation := difference.std(ddof=1)):
        return 0.0 if len(difference) > 1 else 1.0
    return float(2 * stats.norm.sf(abs(difference.mean()) / (deviation / np.sqrt(len(difference)))))
