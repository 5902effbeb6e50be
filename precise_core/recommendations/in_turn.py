"""Of few users everybody is held out in turn (cross-fitting): models of different parts stand together as one order.

L lists, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from precise_core.errors import NothingToLearnError
from precise_core.recommendations.list_ranker import ListInputs, ListRanker
from precise_core.recommendations.lists import CandidateLists

PARTS = 5


@dataclass(frozen=True)
class Learned:
    """An order, and its scores of the held-out candidates [C]: by models that have not learned from their users."""

    ranker: ListRanker
    scores_C: np.ndarray


def learned_in_turn(
    lists: CandidateLists, inputs: ListInputs, fit: Callable[[int, CandidateLists], ListRanker]
) -> Learned:
    """The models of all parts together.

    Args:
        fit: Learns a part's model, given its number, from the lists of all other users; it reads ``inputs``.

    Raises:
        NothingToLearnError: Something was taken of the lists of fewer than two users.
    """
    part_L = _parts(lists)
    scores_C, models = np.empty(len(lists.labels_C)), []
    for part in range(int(part_L.max()) + 1):
        ranker, is_held_out = fit(part, lists.where(part_L != part)), part_L == part
        scores_C[is_held_out[lists.list_rows_C]] = ranker.scores_of(lists.where(is_held_out))
        models += ranker.models
    return Learned(ListRanker(inputs, models), scores_C)


def _parts(lists: CandidateLists) -> np.ndarray:
    """Of each list, int64 [L]: a user's lists are in one; users of whom something was taken are spread evenly."""
    takers = np.unique(lists.users[lists.has_positive()])
    if len(takers) < 2:
        raise NothingToLearnError(f"lists: something was taken of {len(takers)} users; two are needed")
    part_of = dict(zip(takers, np.arange(len(takers)) % PARTS, strict=True))
    return np.array([part_of.get(user, 0) for user in lists.users])
