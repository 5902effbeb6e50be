"""Simple references by neighbours: items of the same users, users of the same items.

Shapes: E events, U users, N items, B users of one block, S users among whom neighbours are sought, k neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from precise_core.errors import ConfigError
from precise_core.evaluation.references import OwnHistory, TrainingLog
from precise_core.recommendations.neighbours import Cooccurrence, largest, pair_matrix

_SAMPLE_SEED = 17  # the references do not change with the seed of a night or an experiment
_BLOCK_ENTRIES = 8_000_000  # of a sparse product at a time: 64 MB where none of them is 0


class ItemKnn:
    """Items that users with the user's recent items had.

    score(u, j) = Σ over the distinct items i of u's last ``history`` events of s(i, j), with
    s(i, j) = |U_i ∩ U_j| / (sqrt(|U_i| |U_j|) + shrinkage), U_i = users with item i. An item is its own neighbour, so
    a user's recent items gain a little: repeats are part of the question `all`. Only the ``neighbours`` most similar
    items of each i are kept (equal ones by row): all pairs would not fit.
    """

    def __init__(
        self, log: TrainingLog, *, shrinkage: float = 10.0, history: int = 100, neighbours: int = 1000
    ) -> None:
        self._recent = _recent_items(log, history)
        self._seed_rows = np.unique(self._recent.indices)
        self._near = Cooccurrence(log.matrix(), shrinkage, neighbours, with_itself=True).near(self._seed_rows)

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        return (self._recent[user_rows_B][:, self._seed_rows] @ self._near).toarray()


class UserKnn:
    """Items of the users who had the same items.

    score(u, j) = Σ over the ``neighbours`` most similar other users v that had j of s(u, v), with
    s(u, v) = |I_u ∩ I_v| / (sqrt(|I_u| |I_v|) + shrinkage), I_u = items of u. Users without a common item are no
    neighbours. Neighbours are sought among ``neighbour_users`` users (``sampled_users``), which bounds time and memory.
    """

    def __init__(
        self, log: TrainingLog, *, shrinkage: float = 10.0, neighbours: int = 300, neighbour_users: int = 20_000
    ) -> None:
        self._had = log.matrix().astype(np.float32)
        self._near = _NearestUsers(self._had, neighbours, neighbour_users, shrinkage)

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        block = np.empty((len(user_rows_B), self._had.shape[1]), np.float32)
        for rows, similarity in self._near.of(user_rows_B):
            block[rows] = (similarity @ self._near.vectors).toarray()
        return block


class TifuKnn:
    """The user's own decayed history and that of similar users (TIFU-KNN).

    score(u) = α v_u + (1 - α) · mean of v over the ``neighbours`` users nearest to u by cosine, where v_u is
    log(1 + Σ exp(-age / τ)) per item (``OwnHistory``, τ = ``days``) and α is ``own_share``. Users without a common item
    are no neighbours; where there are fewer, the mean is over those there are. Neighbours are sought among
    ``neighbour_users`` users (``sampled_users``).

    Hu et al., SIGIR 2020 (https://arxiv.org/abs/2006.00556) differ in the vectors: they decay by the number of baskets,
    within groups of baskets and again over groups, which are averaged; here events decay by their age alone, so that no
    log needs baskets, and the logarithm keeps heavy users from outweighing the others in the mean. They seek the
    nearest by Euclidean distance, among all users. k = 300 and α = .7 are theirs on Ta-Feng and ValuedShopper.

    Raises:
        ConfigError: ``days`` is not above 0, or ``own_share`` is not between 0 and 1.
    """

    def __init__(
        self,
        log: TrainingLog,
        *,
        as_of_seconds: int,
        days: float,
        own_share: float = 0.7,
        neighbours: int = 300,
        neighbour_users: int = 20_000,
    ) -> None:
        if not 0 <= own_share <= 1:
            raise ConfigError(f"own_share {own_share} must be from 0 to 1")
        self._own = OwnHistory(log, as_of_seconds=as_of_seconds, days=days).strength_UN
        self._own_share = np.float32(own_share)
        self._near = _NearestUsers(self._own, neighbours, neighbour_users, shrinkage=0.0)

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        block = np.empty((len(user_rows_B), self._own.shape[1]), np.float32)
        for rows, similarity in self._near.of(user_rows_B):
            found = np.diff(similarity.indptr)
            similarity.data[:] = np.repeat((1 - self._own_share) / np.maximum(found, 1), found)
            own = self._own[user_rows_B[rows]] * self._own_share
            block[rows] = (own + similarity @ self._near.vectors).toarray()
        return block


class _NearestUsers:
    """Each user's most similar other users of a sample, by cosine with shrinkage; equal ones by row.

    Attributes:
        vectors: Of the sampled users, float32 CSR [S, N].
    """

    def __init__(self, vectors_UN: sparse.csr_matrix, count: int, sample: int, shrinkage: float) -> None:
        self._all, self._count, self._shrinkage = vectors_UN, count, shrinkage
        exact_UN = vectors_UN.astype(np.float64)  # the square of a faded strength is 0 in float32
        self._norm_U = np.sqrt(exact_UN.multiply(exact_UN).sum(axis=1)).A1
        self._rows_S = sampled_users(np.flatnonzero(self._norm_U), sample)
        self.vectors = vectors_UN[self._rows_S]
        self._by_item = self.vectors.T.tocsr()

    def of(self, user_rows_B: np.ndarray) -> Iterator[tuple[slice, sparse.csr_matrix]]:
        """Parts of the users, and their similarity to the nearest, CSR [part, S], 0 to all others."""
        size = max(1, _BLOCK_ENTRIES // max(*self.vectors.shape, 1))
        for start in range(0, len(user_rows_B), size):
            part = slice(start, start + size)
            yield part, largest(self._similarities(user_rows_B[part]), self._count)

    def _similarities(self, rows: np.ndarray) -> sparse.csr_matrix:
        found = (self._all[rows] @ self._by_item).tocsr()
        found.sort_indices()
        lengths = np.diff(found.indptr)
        norms = np.repeat(self._norm_U[rows], lengths) * self._norm_U[self._rows_S[found.indices]]
        # An item's strength may have faded to 0; a user is no neighbour of themselves.
        is_other = (found.data > 0) & (self._rows_S[found.indices] != np.repeat(rows, lengths))
        found.data = np.where(is_other, found.data / (norms + self._shrinkage), 0).astype(np.float32)
        found.eliminate_zeros()
        return found


def sampled_users(rows: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of some user rows, ascending; always the same ones."""
    if len(rows) <= count:
        return rows
    return np.sort(np.random.default_rng(_SAMPLE_SEED).choice(rows, count, replace=False))


def _recent_items(log: TrainingLog, history: int) -> sparse.csr_matrix:
    """Distinct items of each user's last ``history`` events, float32 [U, N]; equal times by row, higher rows newer."""
    order = np.lexsort((log.item_rows_E, log.seconds_E, log.user_rows_E))
    users = log.user_rows_E[order]
    from_end = np.searchsorted(users, users, side="right") - np.arange(len(users))
    last = order[from_end <= history]
    return pair_matrix(log.user_rows_E[last], log.item_rows_E[last], log.users, log.items).astype(np.float32)
