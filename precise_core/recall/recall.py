"""Candidates for users: U2I by the user's vector, U2I2I by what follows recent items (section VI-B, Fig. 6).

Shapes: U users, D width, C candidates of all users together. Everything is a *row*: of the user in the call, of the
item in the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from precise_core.errors import ModelError
from precise_core.index.index import VectorIndex
from precise_core.recall.config import RecallConfig
from precise_core.recall.numbering import first_of_each_pair, numbered


@dataclass(frozen=True)
class RecalledItems:
    """Recalled items, ordered by user and rank (1 = best); the arrays are parallel.

    ``seed_rows_C`` are the recent items that an item was looked up for; -1 for U2I.
    """

    user_rows_C: np.ndarray
    ranks_C: np.ndarray
    item_rows_C: np.ndarray
    scores_C: np.ndarray
    seed_rows_C: np.ndarray

    def __len__(self) -> int:
        return len(self.user_rows_C)


def recall_u2i(
    index: VectorIndex,
    user_vectors_UD: np.ndarray,
    k: int,
    *,
    excluded: Sequence[np.ndarray] | None = None,
    allowed_rows_N: np.ndarray | None = None,
) -> RecalledItems:
    """The k items nearest to each user's vector, from an index of the same checkpoint.

    Args:
        excluded: Per user the rows to leave out (for example items the user had); rows of -1 are ignored.
        allowed_rows_N: Mask of rows that may be returned to anybody; deleted items are False here.
    """
    users = len(user_vectors_UD)
    if excluded is None:
        rows_UK, scores_UK = index.search(user_vectors_UD, k, allowed_rows_N)
    else:
        _require_parallel("excluded", len(excluded), users)
        longest = max((len(rows) for rows in excluded), default=0)
        rows_UK, scores_UK = index.search(user_vectors_UD, min(k + longest, len(index)), allowed_rows_N)
    user_rows = np.repeat(np.arange(users), rows_UK.shape[1])
    item_rows, scores = rows_UK.ravel(), scores_UK.ravel()
    keep = (item_rows >= 0) & ~_is_excluded(user_rows, item_rows, excluded, len(index))
    return _ranked(user_rows[keep], item_rows[keep], scores[keep], np.full(int(keep.sum()), -1), k)


def recall_u2i2i(
    index: VectorIndex,
    recent_rows: Sequence[np.ndarray],
    k: int,
    config: RecallConfig,
    *,
    excluded: Sequence[np.ndarray] | None = None,
    allowed_rows_N: np.ndarray | None = None,
) -> RecalledItems:
    """What follows each user's recent items, merged.

    Seeds are the last ``config.seeds`` distinct items; each contributes the ``config.neighbours`` items nearest to its
    query, the vector of a user whose only event it is, never itself. Under ``config.seed_vector: item`` the query is
    the seed's own vector, whose neighbours are items like it. A candidate's score is similarity to the query × decay^
    (position of its seed, 0 = newest); of several seeds of one item the best score stays, the newer seed at equal
    score. Similarities must be positive: decay would raise others. A deleted item may be a seed, but is never returned.

    Args:
        index: With ``seed_queries_ND``, unless ``config.seed_vector`` is `item`.
        recent_rows: Per user the rows of the user's items in the index, most recent first; -1 = not in the index.
        excluded, allowed_rows_N: As in ``recall_u2i``.
    """
    if excluded is not None:
        _require_parallel("excluded", len(excluded), len(recent_rows))
    seed_users, seed_positions, seed_rows = _seeds(recent_rows, config.seeds)
    if len(seed_rows) == 0:
        empty = np.empty(0, np.int64)
        return _ranked(empty, empty, np.empty(0, np.float32), empty, k)
    distinct, inverse = np.unique(seed_rows, return_inverse=True)
    queries_ND = seed_queries(index, config)
    near_rows, near_scores = _neighbours(index, queries_ND[distinct], distinct, config.neighbours, allowed_rows_N)

    width = near_rows.shape[1]
    user_rows = np.repeat(seed_users, width)
    positions = np.repeat(seed_positions, width)
    item_rows = near_rows[inverse].ravel()
    scores = near_scores[inverse].ravel() * np.float32(config.decay) ** positions.astype(np.float32)
    keep = (item_rows >= 0) & (scores > 0) & ~_is_excluded(user_rows, item_rows, excluded, len(index))
    best = _best_per_item(user_rows, item_rows, scores, positions, keep)
    return _ranked(user_rows[best], item_rows[best], scores[best], np.repeat(seed_rows, width)[best], k)


def seed_queries(index: VectorIndex, config: RecallConfig) -> np.ndarray:
    """What U2I2I searches with for each item of the index, [N, D]."""
    if config.seed_vector == "item":
        return index.vectors_ND
    if index.seed_queries_ND is None:
        raise ModelError(
            f"the index of {index.model_version} has no vectors for recall.seed_vector query: it is older than they "
            "are; run jobs/embed_items.py, jobs/build_index.py and jobs/publish_models.py, or set it to item"
        )
    return index.seed_queries_ND


def _seeds(recent_rows: Sequence[np.ndarray], seeds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(user, position, row) of every seed: the first ``seeds`` distinct rows of each user."""
    chosen = []
    for rows in recent_rows:
        known = np.asarray(rows, np.int64)
        known = known[known >= 0]
        _, first = np.unique(known, return_index=True)
        chosen.append(known[np.sort(first)[:seeds]])
    counts = np.array([len(rows) for rows in chosen], np.int64)
    users = np.repeat(np.arange(len(chosen)), counts)
    positions = np.concatenate([np.arange(count) for count in counts]) if len(counts) else counts
    return users, positions, np.concatenate(chosen) if chosen else counts


def _neighbours(
    index: VectorIndex, queries: np.ndarray, rows: np.ndarray, neighbours: int, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Items nearest to the query of each row, without the row itself; [rows, neighbours], padded with -1."""
    found, scores = index.search(queries, neighbours + 1, allowed)
    # Self goes to the end whatever its rank, which may be any.
    order = np.argsort((found == rows[:, None]) | (found < 0), axis=1, kind="stable")[:, :neighbours]
    found, scores = np.take_along_axis(found, order, 1), np.take_along_axis(scores, order, 1)
    return np.where(found == rows[:, None], -1, found), scores


def _is_excluded(
    user_rows: np.ndarray, item_rows: np.ndarray, excluded: Sequence[np.ndarray] | None, items: int
) -> np.ndarray:
    if excluded is None or len(excluded) == 0:
        return np.zeros(len(user_rows), bool)
    users = np.repeat(np.arange(len(excluded)), [len(rows) for rows in excluded])
    rows = np.concatenate([np.asarray(rows, np.int64) for rows in excluded])
    pairs = (users * items + rows)[rows >= 0]
    return np.isin(user_rows * items + item_rows, pairs)


def _best_per_item(
    users: np.ndarray, items: np.ndarray, scores: np.ndarray, positions: np.ndarray, keep: np.ndarray
) -> np.ndarray:
    """Positions of the best candidate of each (user, item) among ``keep``."""
    kept = np.flatnonzero(keep)
    order = kept[np.lexsort((positions[kept], -scores[kept], items[kept], users[kept]))]
    return first_of_each_pair(order, users, items)


def _ranked(users: np.ndarray, items: np.ndarray, scores: np.ndarray, seeds: np.ndarray, k: int) -> RecalledItems:
    """Order by user, score (best first) and row; number within the user; keep the first k."""
    order = np.lexsort((items, -scores, users))
    users = users[order]
    ranks = numbered(users)
    is_top = ranks <= k
    top = order[is_top]
    return RecalledItems(
        users[is_top], ranks[is_top].astype(np.int32), items[top], scores[top].astype(np.float32), seeds[top]
    )


def _require_parallel(name: str, found: int, users: int) -> None:
    if found != users:
        raise ModelError(f"recall: {name} has {found} entries for {users} users")
