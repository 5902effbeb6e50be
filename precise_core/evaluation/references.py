"""Simple references in every table of figures; a model has to beat them.

Shapes: E events, U users, N items, B users of one block. Every reference has ``scores(user_rows_B) -> float32 [B, N]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import sparse

from precise_core.errors import ConfigError
from precise_core.evaluation.names import ALL_TIME, ITEM_KNN, LAST_ITEM_KNN, MOST_POPULAR, PERSONAL_FREQUENCY

SECONDS_PER_DAY = 86_400


class Scorer(Protocol):
    """Anything that scores all items for some users."""

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        """float32 [B, N], higher is better, a fresh array that the caller may change."""


@dataclass(frozen=True)
class TrainingLog:
    """Events before the test period, as parallel arrays; times are seconds since 1970 (UTC).

    ``users`` and ``items`` count all rows, with and without events.
    """

    user_rows_E: np.ndarray
    item_rows_E: np.ndarray
    seconds_E: np.ndarray
    users: int
    items: int

    def item_counts(self) -> np.ndarray:
        """Events per item, int64 [N]."""
        return np.bincount(self.item_rows_E, minlength=self.items)

    def matrix(self) -> sparse.csr_matrix:
        """Which user had which item, bool [U, N]."""
        return pair_matrix(self.user_rows_E, self.item_rows_E, self.users, self.items)


def pair_matrix(user_rows: np.ndarray, item_rows: np.ndarray, users: int, items: int) -> sparse.csr_matrix:
    """Distinct (user, item) pairs as a bool CSR matrix [users, items]; truth and history are given this way."""
    pairs = np.unique(np.asarray(user_rows, np.int64) * items + np.asarray(item_rows, np.int64))
    ones = np.ones(len(pairs), bool)
    return sparse.csr_matrix((ones, (pairs // items, pairs % items)), shape=(users, items))


class MostPopular:
    """Events per item, of the ``days`` before ``as_of_seconds`` or of all time; the same for every user."""

    def __init__(self, log: TrainingLog, *, days: int | None = None, as_of_seconds: int | None = None) -> None:
        recent = np.ones(len(log.item_rows_E), bool)
        if days is not None:
            end = as_of_seconds if as_of_seconds is not None else int(log.seconds_E.max(initial=0)) + 1
            recent = (log.seconds_E >= end - days * SECONDS_PER_DAY) & (log.seconds_E < end)
        self._scores_N = np.bincount(log.item_rows_E[recent], minlength=log.items).astype(np.float32)

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        return np.tile(self._scores_N, (len(user_rows_B), 1))


class PersonalFrequency:
    """The user's own items, most frequent first, then popular ones; ties: the later, the more popular, by row."""

    def __init__(self, log: TrainingLog) -> None:
        counts = log.item_counts()
        # Below 1, so below every own item.
        self._popularity_N = (counts / (counts.max(initial=0) + 1)).astype(np.float32)
        self._own = self._own_scores(log, counts)

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        block = np.tile(self._popularity_N, (len(user_rows_B), 1))
        own = self._own[user_rows_B].tocoo()
        block[own.row, own.col] = own.data
        return block

    @staticmethod
    def _own_scores(log: TrainingLog, popularity: np.ndarray) -> sparse.csr_matrix:
        """n for the first of a user's n items, 1 for the last: order without loss in float32."""
        pairs, inverse, counts = np.unique(
            log.user_rows_E * log.items + log.item_rows_E, return_inverse=True, return_counts=True
        )
        latest = np.full(len(pairs), np.iinfo(np.int64).min)
        np.maximum.at(latest, inverse, log.seconds_E)
        users, items = pairs // log.items, pairs % log.items
        order = np.lexsort((items, -popularity[items], -latest, -counts, users))
        ends = np.searchsorted(users, users, side="right")  # pairs are sorted by user, before and after ordering
        scores = (ends - np.arange(len(pairs))).astype(np.float32)
        return sparse.csr_matrix((scores, (users[order], items[order])), shape=(log.users, log.items))


class TruePreferences:
    """The probability of each item for each user, where the world that made the data is known."""

    def __init__(self, topics_UT: np.ndarray, items_TN: np.ndarray) -> None:
        self._topics_UT, self._items_TN = topics_UT, items_TN

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        return (self._topics_UT[user_rows_B] @ self._items_TN).astype(np.float32)


class ItemKnn:
    """Items that users with the user's recent items had.

    score(u, j) = Σ over the distinct items i of u's last ``history`` events of s(i, j), with
    s(i, j) = |U_i ∩ U_j| / (sqrt(|U_i| |U_j|) + shrinkage), U_i = users with item i. An item is its own neighbour, so
    a user's recent items gain a little: repeats are part of the question `all`. Only the ``neighbours`` most similar
    items of each i are kept (equal ones by row): all pairs would not fit.
    """

    _BLOCK_ROWS = 512  # rows of similarities in full at a time

    def __init__(
        self, log: TrainingLog, *, shrinkage: float = 10.0, history: int = 100, neighbours: int = 1000
    ) -> None:
        self._had = log.matrix().astype(np.float32)
        self._had_by_item = self._had.T.tocsr()
        self._root_count_N = np.sqrt(np.diff(self._had_by_item.indptr)).astype(np.float32)
        self._shrinkage = np.float32(shrinkage)
        self._recent = _recent_items(log, history)
        self._seed_rows = np.unique(self._recent.indices)
        blocks = [
            _keep_largest(self._similarities(self._seed_rows[start : start + self._BLOCK_ROWS]), neighbours)
            for start in range(0, len(self._seed_rows), self._BLOCK_ROWS)
        ]
        self._near = (
            sparse.vstack(blocks, format="csr") if blocks else sparse.csr_matrix((0, log.items), dtype=np.float32)
        )

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        return (self._recent[user_rows_B][:, self._seed_rows] @ self._near).toarray()

    def _similarities(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Similarity of some items to all, [rows, N]."""
        common = (self._had_by_item[rows] @ self._had).tocsr()
        common.sort_indices()
        own_root = np.repeat(self._root_count_N[rows], np.diff(common.indptr))
        common.data /= own_root * self._root_count_N[common.indices] + self._shrinkage
        return common


def _keep_largest(matrix: sparse.csr_matrix, count: int) -> sparse.csr_matrix:
    """The ``count`` largest entries of every row, equal ones by column."""
    kept = np.ones(matrix.nnz, bool)
    for start, end in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        if end - start > count:
            values = matrix.data[start:end]
            cut = np.partition(values, -count)[-count]
            above = values > cut
            ties = np.flatnonzero(values == cut)[: count - int(above.sum())]
            above[ties] = True
            kept[start:end] = above
    lengths = np.add.reduceat(np.append(kept, False), matrix.indptr[:-1]) * (np.diff(matrix.indptr) > 0)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return sparse.csr_matrix((matrix.data[kept], matrix.indices[kept], starts), shape=matrix.shape)


def _recent_items(log: TrainingLog, history: int) -> sparse.csr_matrix:
    """Distinct items of each user's last ``history`` events, float32 [U, N]; equal times by row, higher rows newer."""
    order = np.lexsort((log.item_rows_E, log.seconds_E, log.user_rows_E))
    users = log.user_rows_E[order]
    from_end = np.searchsorted(users, users, side="right") - np.arange(len(users))
    last = order[from_end <= history]
    return pair_matrix(log.user_rows_E[last], log.item_rows_E[last], log.users, log.items).astype(np.float32)


def build_references(
    log: TrainingLog, *, as_of_seconds: int, popular_days: int, knn_shrinkage: float, knn_history: int
) -> dict[str, Scorer]:
    """The references by their names in the tables; that of recently popular items has its days in the name."""
    return {
        MOST_POPULAR.format(days=popular_days): MostPopular(log, days=popular_days, as_of_seconds=as_of_seconds),
        ALL_TIME: MostPopular(log),
        PERSONAL_FREQUENCY: PersonalFrequency(log),
        ITEM_KNN: ItemKnn(log, shrinkage=knn_shrinkage, history=knn_history),
        LAST_ITEM_KNN: ItemKnn(log, shrinkage=knn_shrinkage, history=1),
    }


class OwnHistory:
    """log(1 + Σ exp(-age / τ)) over a user's events with an item: how often, and how recently; 0 for other items.

    τ is ``days``; ages count from ``as_of_seconds``.
    """

    def __init__(self, log: TrainingLog, *, as_of_seconds: int, days: float) -> None:
        if not days > 0:
            raise ConfigError(f"days {days} of the own history must be above 0")
        ages_E = (as_of_seconds - log.seconds_E) / SECONDS_PER_DAY
        strength_E = np.exp(-np.maximum(ages_E, 0) / days)
        places = (log.user_rows_E, log.item_rows_E)
        self._strength_UN = sparse.csr_matrix((strength_E, places), shape=(log.users, log.items))

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        return np.log1p(self._strength_UN[user_rows_B].toarray()).astype(np.float32)
