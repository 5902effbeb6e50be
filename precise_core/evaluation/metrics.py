"""Metrics of ranked lists against sets of truth, and of scored impressions; everything per user first.

Shapes: U users, N items, K places of a list, I impressions. A truth is a set: several items of one instant are equally
right (docs/evaluation.md), so Recall@K divides by min(K, set size) and NDCG@K by its ideal.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from precise_core.bootstrap import ratio
from precise_core.errors import ModelError

_GROUPS = 1024  # of items, whose maxima bound the best k
PROBABILITY_MARGIN = 1e-7  # a float32 probability of exactly 0 or 1 must not make one impression infinitely bad


def top_k_rows(scores_UN: np.ndarray, k: int, last_UN: np.ndarray | None = None) -> np.ndarray:
    """Rows of the k best items per user, int64 [U, k], best first, equal scores by row; -1 where there are fewer.

    Args:
        scores_UN: -inf = not a candidate.
        last_UN: Items that lose every tie against others. Passing the truth here ranks pessimistically: a system that
            gives all items one score then finds nothing, whatever the order of rows.
    """
    _require_numbers(scores_UN)
    users, items = scores_UN.shape
    ranked = np.full((users, k), -1, np.int64)
    if items == 0:
        return ranked
    bounds_U = _bounds(scores_UN, k)
    for user in range(users):
        near = np.flatnonzero(scores_UN[user] >= bounds_U[user])
        rows = _top_rows(near, scores_UN[user, near], k, None if last_UN is None else last_UN[user])
        ranked[user, : len(rows)] = rows
    return ranked


def _bounds(scores_UN: np.ndarray, k: int) -> np.ndarray:
    """A score of each user that at least k items reach, [U]: mostly by little more than k.

    The k-th best of the maxima of groups of items: one pass over the scores instead of a selection among all of them.
    """
    users, items = scores_UN.shape
    width = items // _GROUPS
    if width < 2 or 2 * k > _GROUPS:
        return np.full(users, -np.inf)
    grouped = width * _GROUPS
    best_UG = scores_UN[:, :grouped].reshape(users, width, _GROUPS).max(axis=1)
    rest = items - grouped
    np.maximum(best_UG[:, :rest], scores_UN[:, grouped:], out=best_UG[:, :rest])
    return np.partition(best_UG, _GROUPS - k, axis=1)[:, _GROUPS - k]


def top_k_of_pairs(
    scores_UN: np.ndarray, pairs: sparse.csr_matrix, k: int, last_UN: np.ndarray | None = None
) -> np.ndarray:
    """``top_k_rows`` where each user has candidates of their own, the pairs [U, N] of the matrix.

    Costs time and memory by the number of pairs.
    """
    users, items = pairs.nonzero()
    scores = scores_UN[users, items]
    _require_numbers(scores)
    last = np.zeros(len(users), bool) if last_UN is None else last_UN[users, items]
    order = np.lexsort((items, last, -scores, users))
    order = order[scores[order] > -np.inf]
    users, items = users[order], items[order]
    places = np.arange(len(users)) - np.searchsorted(users, users)
    kept = places < k
    ranked = np.full((scores_UN.shape[0], k), -1, np.int64)
    ranked[users[kept], places[kept]] = items[kept]
    return ranked


def _require_numbers(scores: np.ndarray) -> None:
    if np.isnan(scores).any():
        raise ModelError(f"scores: {int(np.isnan(scores).sum())} are NaN; a ranking needs numbers")


def _top_rows(rows: np.ndarray, scores: np.ndarray, k: int, last_N: np.ndarray | None) -> np.ndarray:
    """The k best of some rows, ascending, by their scores."""
    place = max(len(scores) - k, 0)
    cut = np.partition(scores, place)[place]
    above = np.flatnonzero(scores > cut)
    ties = np.flatnonzero(scores == cut) if cut > -np.inf else above[:0]
    if last_N is None:
        kept = np.concatenate([above, ties[: k - len(above)]])
        return rows[kept[np.argsort(-scores[kept], kind="stable")]]
    kept = np.concatenate([above, ties])
    return rows[kept[np.lexsort((kept, last_N[rows[kept]], -scores[kept]))[:k]]]


def hits_in(ranked_UK: np.ndarray, truth_UN: np.ndarray) -> np.ndarray:
    """Whether each place of each list holds a truth item, bool [U, K]; padding (-1) never does."""
    return np.take_along_axis(truth_UN, np.maximum(ranked_UK, 0), axis=1) & (ranked_UK >= 0)


def recall_at_k(hits_UK: np.ndarray, truth_count_U: np.ndarray, k: int) -> np.ndarray:
    """Hits among the first k over min(k, truth count), float64 [U]; NaN for users without truth."""
    return ratio(hits_UK[:, :k].sum(axis=1), np.minimum(truth_count_U, k))


def ndcg_at_k(hits_UK: np.ndarray, truth_count_U: np.ndarray, k: int) -> np.ndarray:
    """Σ hit / log2(place + 1) over the first k, divided by that of a perfect list; NaN for users without truth."""
    gains = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0.0], np.cumsum(gains)])[np.minimum(truth_count_U, k)]
    places = min(k, hits_UK.shape[1])
    return ratio(hits_UK[:, :places] @ gains[:places], ideal)


def hit_rate_at_k(hits_UK: np.ndarray, truth_count_U: np.ndarray, k: int) -> np.ndarray:
    """1 where any of the first k is a hit, else 0; NaN for users without truth."""
    return np.where(truth_count_U > 0, hits_UK[:, :k].any(axis=1).astype(np.float64), np.nan)


def novelty_at_k(ranked_UK: np.ndarray, novelty_N: np.ndarray, k: int) -> np.ndarray:
    """Mean of the items' ``novelty_N`` (bits) over the first k places that hold one, float64 [U]; NaN for empty lists.

    Mean inverse user frequency (RecTools) where ``novelty_N`` is ``item_novelty``.
    """
    ranked_UK = ranked_UK[:, :k]
    is_item_UK = ranked_UK >= 0
    return ratio((novelty_N[ranked_UK] * is_item_UK).sum(axis=1), is_item_UK.sum(axis=1))


def item_novelty(users_N: np.ndarray, users: int) -> np.ndarray:
    """-log2 of the share of users who had each item, in bits, float64 [N]: the surprise of seeing it in a history.

    An item that nobody had counts as if one user had it (Zhou et al., PNAS 2010; RecTools does the same).
    """
    return np.log2(max(users, 1)) - np.log2(np.maximum(users_N, 1))


def auc_by_user(
    user_ids_I: np.ndarray, labels_I: np.ndarray, scores_I: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pieces of GAUC: sorted user ids, AUC per user (NaN where a class is missing), impressions per user."""
    users, user_I = np.unique(user_ids_I, return_inverse=True)
    positive_I = np.asarray(labels_I) > 0
    ranks_I = _ranks_within(user_I, np.asarray(scores_I))
    impressions = np.bincount(user_I, minlength=len(users))
    positives = np.bincount(user_I[positive_I], minlength=len(users))
    rank_sums = np.bincount(user_I[positive_I], weights=ranks_I[positive_I], minlength=len(users))
    won_pairs = rank_sums - positives * (positives + 1) / 2
    return users, ratio(won_pairs, positives * (impressions - positives)), impressions


def log_loss_by_user(
    user_ids_I: np.ndarray, labels_I: np.ndarray, probabilities_I: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted user ids, mean log loss per user, impressions per user; their weighted mean is the log loss."""
    users, user_I = np.unique(user_ids_I, return_inverse=True)
    impressions = np.bincount(user_I, minlength=len(users))
    return users, np.bincount(user_I, weights=_losses(labels_I, probabilities_I)) / impressions, impressions


def _losses(labels_I: np.ndarray, probabilities_I: np.ndarray) -> np.ndarray:
    probability = np.clip(np.asarray(probabilities_I, np.float64), PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN)
    return -np.log(np.where(np.asarray(labels_I) > 0, probability, 1 - probability))


def _ranks_within(user_I: np.ndarray, scores_I: np.ndarray) -> np.ndarray:
    """Rank of each impression's score among the user's, 1 = lowest, ties share the mean of their ranks."""
    order = np.lexsort((scores_I, user_I))
    users, scores = user_I[order], scores_I[order]
    starts_tie = np.ones(len(order), bool)
    starts_tie[1:] = (users[1:] != users[:-1]) | (scores[1:] != scores[:-1])
    first = np.flatnonzero(starts_tie)
    last = np.append(first[1:], len(order)) - 1
    middle = ((first + last) / 2)[np.cumsum(starts_tie) - 1] if len(order) else np.empty(0)
    ranks = np.empty(len(order))
    ranks[order] = middle - np.searchsorted(users, users) + 1
    return ranks
