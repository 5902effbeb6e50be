"""One list per user out of several sources, with a quota per source (section VI-B adds recall methods to each other).

C candidates of all users and sources together, S sources.
"""

from __future__ import annotations

import numpy as np


def merged_ranks(
    user_rows_C: np.ndarray,
    item_rows_C: np.ndarray,
    ranks_C: np.ndarray,
    sources_C: np.ndarray,
    quotas_S: np.ndarray,
    k: int,
) -> np.ndarray:
    """Place of each candidate in its user's merged list, int32 [C], 1 = first; 0 = not in it.

    Sources take turns in proportion to their quotas. An item of several sources belongs to the one that would place it
    first, the source of lower number at equal places, and the others continue with their next item, so that none loses
    a place. Where a source has no more items the others take its places; one with quota 0 is not merged.

    ``ranks_C`` count from 1 = best within user and source; ``k`` is the most places of a merged list.
    """
    merged_C = np.zeros(len(user_rows_C), np.int32)
    chosen = np.flatnonzero(quotas_S[sources_C] > 0)
    turns_C = ranks_C / np.where(quotas_S > 0, quotas_S, 1)[sources_C]
    chosen = chosen[_firsts(chosen, user_rows_C, item_rows_C, turns_C, sources_C)]
    chosen = chosen[np.lexsort((ranks_C[chosen], sources_C[chosen], user_rows_C[chosen]))]
    users, sources = user_rows_C[chosen], sources_C[chosen]
    turns = numbered(users * len(quotas_S) + sources) / quotas_S[sources]
    chosen = chosen[np.lexsort((sources, turns, users))]
    places = numbered(user_rows_C[chosen])
    merged_C[chosen[places <= k]] = places[places <= k]
    return merged_C


def _firsts(
    chosen: np.ndarray, users_C: np.ndarray, items_C: np.ndarray, turns_C: np.ndarray, sources_C: np.ndarray
) -> np.ndarray:
    """Positions in ``chosen`` of the first claim to each (user, item)."""
    users, items = users_C[chosen], items_C[chosen]
    return first_of_each_pair(np.lexsort((sources_C[chosen], turns_C[chosen], items, users)), users, items)


def first_of_each_pair(order: np.ndarray, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Of positions in an ``order`` by user and item, the first of each (user, item)."""
    is_first = np.ones(len(order), bool)
    is_first[1:] = (users[order][1:] != users[order][:-1]) | (items[order][1:] != items[order][:-1])
    return order[is_first]


def numbered(sorted_keys: np.ndarray) -> np.ndarray:
    """1, 2, 3 ... within each run of equal keys."""
    return np.arange(len(sorted_keys)) - np.searchsorted(sorted_keys, sorted_keys) + 1
