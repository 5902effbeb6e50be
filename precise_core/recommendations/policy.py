"""From scored candidates to lists: who may be on one, how many of a kind, in what order.

Shapes: C candidates of some users, K places of a list.
"""

from __future__ import annotations

import numpy as np

from precise_core.recommendations.config import ListConfig

_MAY = {"allow": (False, True), "exclude": (False,), "only": (True,)}


def listed(
    user_rows_C: np.ndarray,
    item_rows_C: np.ndarray,
    scores_C: np.ndarray,
    is_repeat_C: np.ndarray,
    categories_C: np.ndarray,
    texts_C: np.ndarray,
    policy: ListConfig,
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the candidates on each user's list and their ranks (1 = first), ordered by user and rank.

    Best scores first, equal ones by item. A candidate is passed over where ``policy.max_per_category`` or
    ``max_per_text`` better ones of its kind are on the list; kind 0 is unknown and never capped. Where the first ``k``
    hold too few new items, repeats give way from the end: no list gets shorter by that.
    """
    rows = np.flatnonzero(np.isin(is_repeat_C, _MAY[policy.repeat]))
    rows = rows[np.lexsort((item_rows_C[rows], -scores_C[rows], user_rows_C[rows]))]
    for kinds_C, most in ((categories_C, policy.max_per_category), (texts_C, policy.max_per_text)):
        if most is not None:
            kinds = kinds_C[rows]
            rows = rows[(kinds == 0) | (_number_within(user_rows_C[rows], kinds) <= most)]
    if policy.min_new_share > 0:
        rows = _with_new_items(rows, user_rows_C, is_repeat_C, policy.min_new_share, k)
    ranks = _number_within(user_rows_C[rows])
    return rows[ranks <= k], ranks[ranks <= k]


def _with_new_items(
    rows: np.ndarray, user_rows_C: np.ndarray, is_repeat_C: np.ndarray, share: float, k: int
) -> np.ndarray:
    """The order with repeats beyond the most that ``k`` places may hold moved behind all new items."""
    users, repeats = user_rows_C[rows], is_repeat_C[rows]
    most_repeats = k - int(np.ceil(share * k))
    is_late = repeats & (_number_within(users, repeats) > most_repeats)
    return rows[np.lexsort((np.arange(len(rows)), is_late, users))]


def _number_within(*keys: np.ndarray) -> np.ndarray:
    """1, 2, 3 ... among the rows with the same keys, in their order."""
    order = np.lexsort(keys[::-1])
    stacked = np.stack([key[order] for key in keys])
    starts = np.flatnonzero(np.append(True, (stacked[:, 1:] != stacked[:, :-1]).any(axis=0))[: len(order)])
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order)))) + 1
    return numbers
