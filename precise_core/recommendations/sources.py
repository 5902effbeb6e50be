"""Candidates of some users from every source, each with its score and rank.

Shapes: B users, N vocabulary rows, C candidates of all users together, S users of the sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from precise_core.recall.numbering import numbered
from precise_core.recommendations.config import RecommendationsConfig
from precise_core.recommendations.history import HALF_LIVES, Tally, UserEvents, pair_keys, positions_in, split_keys
from precise_core.recommendations.item_facts import ItemFacts
from precise_core.recommendations.names import EASE, HISTORY, ITEM_TO_ITEM, TASK_HISTORY, TRENDING, USERS
from precise_core.recommendations.neighbours import entries, entry_rows, largest
from precise_core.recommendations.point_in_time import Similarities

_FUSION = 60  # of the paper that proposed it


@dataclass(frozen=True)
class Ranked:
    """The best items of each user in one source: parallel arrays, ranks from 1 within the user."""

    user_rows: np.ndarray
    item_rows: np.ndarray
    ranks: np.ndarray

    @property
    def keys(self) -> np.ndarray:
        return pair_keys(self.user_rows, self.item_rows)


@dataclass(frozen=True)
class Scores:
    """What one source makes of every item it knows something of: float32 CSR [B, N] with sorted indices.

    ``offers_BN`` are those of the entries that may become candidates.
    """

    matrix_BN: sparse.csr_matrix
    offers_BN: sparse.csr_matrix

    @cached_property
    def keys(self) -> np.ndarray:
        """``pair_keys`` of the stored entries, ascending."""
        return pair_keys(entry_rows(self.matrix_BN), self.matrix_BN.indices)

    def at(self, keys_C: np.ndarray) -> np.ndarray:
        """float32 [C], 0 where the source knows nothing."""
        return np.append(self.matrix_BN.data, np.float32(0))[positions_in(self.keys, keys_C)]


@dataclass(frozen=True)
class Candidates:
    """Distinct pairs of user and item, ordered by user and item, with the score and rank of each source.

    ``scores`` are 0 where a source knows nothing of the pair; ``ranks`` are infinite where it is not among its best.
    """

    user_rows_C: np.ndarray
    item_rows_C: np.ndarray
    scores: dict[str, np.ndarray]
    ranks: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.user_rows_C)


def profiles(own: Tally, users: int, items: int) -> sparse.csr_matrix:
    """What users had, decayed slowly and dampened, rows of length 1, float32 [B, N]."""
    weights_P = np.log1p(own.decayed[HALF_LIVES[-1]])
    matrix = sparse.csr_matrix((weights_P, (own.user_rows_P, own.things_P)), shape=(users, items))
    lengths_P = np.sqrt(np.bincount(own.user_rows_P, weights_P**2, users))[own.user_rows_P]
    matrix.data /= np.maximum(lengths_P, np.finfo(np.float64).tiny)  # 0: all of a user's events are centuries old
    return matrix.astype(np.float32)


def source_scores(
    events: UserEvents,
    own: Tally,
    similar: Similarities,
    user_ids: Sequence[str],
    config: RecommendationsConfig,
) -> dict[str, Scores]:
    """What every source that is on makes of what it knows, by source.

    It is of all tasks: a task's candidates are those of them that it allows. What users had comes from their histories;
    the other sources spend their places on new items.
    """
    newest = events.newest(config.seeds).of_items()
    seeds = split_keys(np.unique(pair_keys(newest.user_rows_E, newest.item_rows_E)))
    seeds_BN = sparse.csr_matrix((np.ones(len(seeds[0]), np.float32), seeds), shape=(events.users, events.items))
    profiles_BN = profiles(own, events.users, events.items)
    found = {HISTORY: profiles_BN}
    for source in ITEM_TO_ITEM:
        if config.k_of(source) and source in similar.near:
            had_BN = (profiles_BN > 0).astype(np.float32) if source == EASE else seeds_BN
            found[source] = (had_BN @ similar.near[source]).tocsr()
    if config.k_of(USERS):
        found[USERS] = _of_similar_users(profiles_BN, similar, user_ids, config.similar_users)
    for matrix in found.values():
        matrix.sort_indices()
    has_history = config.k_of(HISTORY) > 0
    return {
        source: Scores(matrix, _without(matrix, own) if has_history and source != HISTORY else matrix)
        for source, matrix in found.items()
    }


def _without(matrix_BN: sparse.csr_matrix, own: Tally) -> sparse.csr_matrix:
    """The entries of items that the user never had."""
    return entries(matrix_BN, own.positions(entry_rows(matrix_BN), matrix_BN.indices) == len(own.keys_P))


def _of_similar_users(
    profiles_BN: sparse.csr_matrix, similar: Similarities, user_ids: Sequence[str], k: int
) -> sparse.csr_matrix:
    """Mean profile of the k users of the sample most like each user, weighted by cosine; nobody is like himself."""
    near_BS = (profiles_BN @ similar.sample_SN.T).tocsr()
    self_B = np.array([similar.sample_rows.get(user_id, -1) for user_id in user_ids])
    near_BS.sort_indices()
    others_BS = entries(near_BS, self_B[entry_rows(near_BS)] != near_BS.indices)
    return (largest(others_BS, k) @ similar.sample_SN).tocsr() / np.float32(k)


def trending(facts: ItemFacts, k: int) -> dict[str, np.ndarray]:
    """Rows of the ``k`` most popular items of some days and of all time, and of those that are new to most, by name.

    Equal ones are ordered by all events of the task, then by row; an item without any is left out.
    """
    lists = {f"popular_{days}d": values_N for days, values_N in facts.recent.items()}
    lists["popular_ever"] = facts.events_N
    lists |= {f"first_time_{days}d": values_N for days, values_N in facts.first_time.items()}
    return {name: _most(facts, values_N, k) for name, values_N in lists.items()}


def popular(facts: ItemFacts, k: int) -> tuple[int | None, np.ndarray, np.ndarray]:
    """For whoever has no history: days, rows and counts of the ``k`` items taken most in 28 days.

    Where nothing was taken in them: of all time, and days are None.
    """
    rows = _most(facts, facts.recent[28], k)
    if len(rows):
        return 28, rows, facts.recent[28][rows]
    rows = _most(facts, facts.events_N, k)
    return None, rows, facts.events_N[rows]


def _most(facts: ItemFacts, values_N: np.ndarray, k: int) -> np.ndarray:
    rows = np.flatnonzero(facts.allowed_N & (values_N > 0))
    return rows[np.lexsort((rows, -facts.events_N[rows], -values_N[rows]))][:k]


def gather_candidates(
    scores: Mapping[str, Scores],
    facts: ItemFacts,
    users: int,
    config: RecommendationsConfig,
    task_history: Tally | None = None,
    recalled: Mapping[str, Ranked] | None = None,
) -> Candidates:
    """What the sources find of one task, together; at most ``config.candidates`` a user.

    Args:
        scores: Of ``source_scores``.
        task_history: What users had in the task; None for `all`.
        recalled: What the model's index found, by source.
    """
    lists = {name: _best(of.offers_BN, facts.allowed_N, config.k_of(name)) for name, of in scores.items()}
    histories = {HISTORY: lists.pop(HISTORY)}
    if task_history is not None and config.k_of(TASK_HISTORY):
        of_task = profiles(task_history, users, len(facts.allowed_N))
        histories[TASK_HISTORY] = _best(of_task, facts.allowed_N, config.k_of(TASK_HISTORY))
    recalled, rows_of = dict(recalled or {}), trending(facts, config.k_of(TRENDING))
    votes = [*lists.values(), _for_all(users, *_best_ranks(rows_of)), *recalled.values()]
    keys_C = _fused(histories, votes, config.candidates)
    lists |= {name: _for_all(users, rows, np.arange(1, len(rows) + 1)) for name, rows in rows_of.items()} | recalled
    user_rows_C, item_rows_C = split_keys(keys_C)
    return Candidates(
        user_rows_C,
        item_rows_C,
        scores={name: of.at(keys_C) for name, of in scores.items()},
        ranks={name: _ranks_at(ranked, keys_C) for name, ranked in (histories | lists).items()},
    )


def _best(scores_BN: sparse.csr_matrix, allowed_N: np.ndarray, k: int) -> Ranked:
    """The ``k`` best allowed items of each user; equal scores by row."""
    is_candidate = allowed_N[scores_BN.indices] & (scores_BN.data > 0)
    top = largest(entries(scores_BN, is_candidate), k)
    user_rows = entry_rows(top)
    order = np.lexsort((top.indices, -top.data, user_rows))
    return Ranked(user_rows, top.indices[order].astype(np.int64), numbered(user_rows))


def _for_all(users: int, rows: np.ndarray, ranks: np.ndarray) -> Ranked:
    return Ranked(np.repeat(np.arange(users), len(rows)), np.tile(rows, users), np.tile(ranks, users))


def _best_ranks(lists: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The rows of all lists, ascending, and the best rank of each: lists that are much alike have one vote together."""
    rows = np.concatenate([np.empty(0, np.int64), *lists.values()])
    ranks = np.concatenate([np.empty(0, np.int64), *(np.arange(1, len(of) + 1) for of in lists.values())])
    order = np.lexsort((ranks, rows))
    distinct, first = np.unique(rows[order], return_index=True)
    return distinct, ranks[order][first]


def _fused(histories: Mapping[str, Ranked], lists: Sequence[Ranked], cap: int) -> np.ndarray:
    """Keys of the pairs in any list, ascending; of a user with more than ``cap`` those that most lists agree on.

    Reciprocal rank fusion (Cormack et al. 2009): the largest sums of 1 / (60 + rank). Histories come first.
    """
    found = [*histories.values(), *lists]
    keys, ranks = (np.concatenate([getattr(of, name) for of in found]) for name in ("keys", "ranks"))
    keys_C, place = np.unique(keys, return_inverse=True)
    sums_C = np.bincount(place, 1 / (_FUSION + ranks), len(keys_C))
    is_own_C = np.zeros(len(keys_C), bool)
    is_own_C[place[: sum(len(of.ranks) for of in histories.values())]] = True
    users_C, _ = split_keys(keys_C)
    order = np.lexsort((-sums_C, ~is_own_C, users_C))
    return keys_C[np.sort(order[numbered(users_C) <= cap])]


def _ranks_at(ranked: Ranked, keys_C: np.ndarray) -> np.ndarray:
    keys = ranked.keys
    order = np.argsort(keys)
    return np.append(ranked.ranks[order].astype(np.float64), np.inf)[positions_in(keys[order], keys_C)]
