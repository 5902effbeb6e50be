"""From scored candidates to lists: who may be on one, how many of a kind, in what order.

Shapes: C candidates of some users, K places of a list.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from precise_core.recall.numbering import numbered
from precise_core.recommendations.config import ListConfig
from precise_core.recommendations.lists import REPEATS


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
    hold too few new items, repeats give way from the end, and what they kept off the list has their place: no list
    gets shorter by that.
    """
    repeat = REPEATS[policy.repeat]
    rows = np.arange(len(scores_C)) if repeat is None else np.flatnonzero(is_repeat_C == repeat)
    rows = rows[np.lexsort((item_rows_C[rows], -scores_C[rows], user_rows_C[rows]))]
    if policy.max_per_category is not None or policy.max_per_text is not None or policy.min_new_share > 0:
        ends = np.flatnonzero(np.diff(user_rows_C[rows])) + 1
        of_users = [_chosen(own, is_repeat_C, categories_C, texts_C, policy, k) for own in np.split(rows, ends)]
        rows = np.array([row for own in of_users for row in own], np.int64)
    ranks = numbered(user_rows_C[rows])
    return rows[ranks <= k], ranks[ranks <= k]


def _chosen(
    rows: np.ndarray,
    is_repeat_C: np.ndarray,
    categories_C: np.ndarray,
    texts_C: np.ndarray,
    policy: ListConfig,
    k: int,
) -> list[int]:
    """Of the rows of one user, best first, those that get one of the ``k`` places."""
    most_repeats = k - int(np.ceil(policy.min_new_share * k - 1e-9))  # .07 x 100 is a little above 7
    capped = [
        (kinds_C, most, Counter[int]())
        for kinds_C, most in ((categories_C, policy.max_per_category), (texts_C, policy.max_per_text))
        if most is not None
    ]
    chosen: list[int] = []
    late: list[int] = []
    repeats = 0

    def place(row: int) -> bool:
        if len(chosen) == k or any(kinds_C[row] and on[kinds_C[row]] == most for kinds_C, most, on in capped):
            return False
        for kinds_C, _, on in capped:
            on[kinds_C[row]] += 1
        chosen.append(row)
        return True

    for row in rows.tolist():
        if is_repeat_C[row] and repeats == most_repeats:
            late.append(row)
        elif place(row):
            repeats += bool(is_repeat_C[row])
    for row in late:
        place(row)
    return chosen
