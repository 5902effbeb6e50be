"""Confidence intervals and paired tests by resampling users (percentile bootstrap, 95 %).

Shapes: U users, M metrics, I impressions, S samples. NaN: the metric is not defined for the user; resampling keeps
whole users, so metrics of one user stay together.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_TAIL = 0.025
_BLOCK_COUNTS = 4_000_000


def mean_interval(
    values_U: np.ndarray, samples: int, seed: int, weights_U: np.ndarray | None = None
) -> tuple[float, float, float]:
    """(mean, low, high) of one metric over users, weighted where weights are given; NaNs where there are no users."""
    means, lows, highs = mean_intervals(values_U[:, None], samples, seed, weights_U)
    return float(means[0]), float(lows[0]), float(highs[0])


def mean_intervals(
    values_UM: np.ndarray, samples: int, seed: int, weights_U: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(means, lows, highs), each [M]: many metrics of the same users with one set of samples."""
    means, samples_SM = _resampled_means(values_UM, samples, seed, weights_U)
    lows, highs = _quantiles(samples_SM)
    return means, lows, highs


def paired_difference(
    a_U: np.ndarray, b_U: np.ndarray, samples: int, seed: int, weights_U: np.ndarray | None = None
) -> tuple[float, float, float, float]:
    """(mean of a - b, low, high, p-value) over the users that have both.

    The p-value is two-sided: how often a resampled difference, shifted to mean 0, is as far from 0 as the observed
    one; (1 + count) / (1 + samples), so never 0. NaNs where no user has both.
    """
    return paired_differences(a_U[:, None], b_U[:, None], samples, seed, weights_U)[0]


def paired_differences(
    a_UM: np.ndarray, b_UM: np.ndarray, samples: int, seed: int, weights_U: np.ndarray | None = None
) -> list[tuple[float, float, float, float]]:
    """``paired_difference`` of many metrics of the same users, with one set of samples."""
    means, samples_SM = _resampled_means(a_UM - b_UM, samples, seed, weights_U)
    return [_tested(float(mean), samples_SM[:, column]) for column, mean in enumerate(means)]


def auc_difference(
    user_ids_I: np.ndarray, labels_I: np.ndarray, a_I: np.ndarray, b_I: np.ndarray, samples: int, seed: int
) -> tuple[float, float, float, float]:
    """(AUC of a - AUC of b, low, high, p-value) over all impressions together; both on the same resampled users.

    Scores of several trainings, one row each, are compared by the mean of their AUCs.
    """
    ours, ours_S = _mean_auc(user_ids_I, labels_I, a_I, samples, seed)
    theirs, theirs_S = _mean_auc(user_ids_I, labels_I, b_I, samples, seed)
    return _tested(ours - theirs, ours_S - theirs_S)


def _mean_auc(
    user_ids_I: np.ndarray, labels_I: np.ndarray, scores: np.ndarray, samples: int, seed: int
) -> tuple[float, np.ndarray]:
    found = [_resampled_auc(user_ids_I, labels_I, of_one_I, samples, seed) for of_one_I in np.atleast_2d(scores)]
    return float(np.mean([value for value, _ in found])), np.mean([resampled_S for _, resampled_S in found], axis=0)


def auc_interval(
    user_ids_I: np.ndarray, labels_I: np.ndarray, scores_I: np.ndarray, samples: int, seed: int
) -> tuple[float, float, float]:
    """(AUC, low, high) over all impressions together, resampled by user; ties count half."""
    value, resampled_S = _resampled_auc(user_ids_I, labels_I, scores_I, samples, seed)
    lows, highs = _quantiles(resampled_S[:, None])
    return value, float(lows[0]), float(highs[0])


def _resampled_auc(
    user_ids_I: np.ndarray, labels_I: np.ndarray, scores_I: np.ndarray, samples: int, seed: int
) -> tuple[float, np.ndarray]:
    """The AUC of the users as they are, and of each resampling [S]."""
    _, user_I = np.unique(user_ids_I, return_inverse=True)
    _, tie_I = np.unique(scores_I, return_inverse=True)
    positive_I = np.asarray(labels_I) > 0
    users = int(user_I.max()) + 1 if len(user_I) else 0
    value = _weighted_auc(tie_I, positive_I, np.ones(len(user_I)))
    if np.isnan(value):
        return value, np.full(samples, np.nan)
    drawn = (counts for block in _counts(users, samples, seed) for counts in block)
    return value, np.array([_weighted_auc(tie_I, positive_I, counts[user_I]) for counts in drawn])


def _tested(difference: float, resampled_S: np.ndarray) -> tuple[float, float, float, float]:
    if np.isnan(difference):
        return difference, difference, difference, difference
    lows, highs = _quantiles(resampled_S[:, None])
    known_S = resampled_S[~np.isnan(resampled_S)]
    as_far = np.sum(np.abs(known_S - difference) >= abs(difference) - 1e-15)
    return difference, float(lows[0]), float(highs[0]), float((1 + as_far) / (1 + len(known_S)))


def _weighted_auc(tie_I: np.ndarray, positive_I: np.ndarray, weights_I: np.ndarray) -> float:
    positives = np.bincount(tie_I, weights=weights_I * positive_I)
    negatives = np.bincount(tie_I, weights=weights_I * ~positive_I)
    pairs = positives.sum() * negatives.sum()
    if pairs == 0:
        return float("nan")
    below = np.cumsum(negatives) - negatives
    return float(positives @ (below + negatives / 2) / pairs)


def _resampled_means(
    values_UM: np.ndarray, samples: int, seed: int, weights_U: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Means [M] of the users as they are and [S, M] of the resampled ones; NaN where nobody counts."""
    weights_UM = ~np.isnan(values_UM) * (1.0 if weights_U is None else np.asarray(weights_U, float)[:, None])
    totals_UM = np.nan_to_num(values_UM) * weights_UM
    parts = [ratio(counts @ totals_UM, counts @ weights_UM) for counts in _counts(len(values_UM), samples, seed)]
    return ratio(totals_UM.sum(axis=0), weights_UM.sum(axis=0)), np.concatenate(parts)


def _counts(users: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each user is drawn in each sample, float64 [block, U]; the same for the same seed."""
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK_COUNTS // max(users, 1))
    for start in range(0, samples, block):
        size = min(block, samples - start)
        drawn = random.integers(0, max(users, 1), (size, users)) + np.arange(size)[:, None] * users
        yield np.bincount(drawn.ravel(), minlength=size * users).reshape(size, users).astype(np.float64)


def _quantiles(samples_SM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """2.5 % and 97.5 % per column, over the samples that have a value."""
    lows, highs = np.full((2, samples_SM.shape[1]), np.nan)
    has_value = ~np.isnan(samples_SM).all(axis=0)
    if has_value.any():
        lows[has_value], highs[has_value] = np.nanquantile(samples_SM[:, has_value], [_TAIL, 1 - _TAIL], axis=0)
    return lows, highs


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, NaN where the denominator is 0."""
    result = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result
