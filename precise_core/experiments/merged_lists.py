"""One list per user out of several sources that take turns: section VI-B adds recall methods to each other.

C candidates of all users and sources together, U users, K places.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from precise_core.recall.numbering import first_of_each_pair, numbered


def merged_lists(lists: Sequence[np.ndarray]) -> np.ndarray:
    """One list per user [U, K] out of one per source; -1 = nothing."""
    stacked_SUK = np.stack(lists)
    sources, users, places = np.nonzero(stacked_SUK >= 0)
    items, k = stacked_SUK[sources, users, places], stacked_SUK.shape[2]
    ranks = merged_ranks(users, items, places + 1, sources, k)
    merged_UK = np.full(stacked_SUK.shape[1:], -1, np.int64)
    merged_UK[users[ranks > 0], ranks[ranks > 0] - 1] = items[ranks > 0]
    return merged_UK


def merged_ranks(
    user_rows_C: np.ndarray, item_rows_C: np.ndarray, ranks_C: np.ndarray, sources_C: np.ndarray, k: int
) -> np.ndarray:
    """Place of each candidate in its user's merged list, int32 [C], 1 = first; 0 = not in it.

    Sources take turns. An item of several sources belongs to the one that ranks it highest, the source of lower number
    at equal ranks, and the others continue with their next item, so that none loses a place. Where a source has no more
    items the others take its places.

    ``ranks_C`` count from 1 = best within user and source; ``k`` is the most places of a merged list.
    """
    merged_C = np.zeros(len(user_rows_C), np.int32)
    order = np.lexsort((sources_C, ranks_C, item_rows_C, user_rows_C))
    chosen = first_of_each_pair(order, user_rows_C, item_rows_C)
    chosen = chosen[np.lexsort((ranks_C[chosen], sources_C[chosen], user_rows_C[chosen]))]
    users, sources = user_rows_C[chosen], sources_C[chosen]
    turns = numbered(users * (sources_C.max(initial=0) + 1) + sources)
    chosen = chosen[np.lexsort((sources, turns, users))]
    places = numbered(user_rows_C[chosen])
    merged_C[chosen[places <= k]] = places[places <= k]
    return merged_C
