"""Simple orders of candidates, from their features alone: what a learned order has to be above.

Each is a function of features by name (columns of `candidate_features`) to scores, higher first. C candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from schemas.recommendations import FEATURE_NAMES

_Features = Callable[[str], np.ndarray]
_BEHIND = 1e-3  # popularity is at most some 20, as a log1p: below any own event that is not years old


def _own_decayed(of: _Features) -> np.ndarray:
    return of("task_item_decayed_125d") + _BEHIND * _BEHIND * of("task_popular_28d")


def _personal_frequency(of: _Features) -> np.ndarray:
    return of("task_item_events") - _BEHIND**2 * of("task_item_last_age") + _BEHIND**3 * of("all_popular")


def _own_and_similar_users(of: _Features) -> np.ndarray:
    """What the user had comes last where neither the user nor anybody ever took it, or anything, again."""
    is_taken_again = (of("all_repeat_rate") > 0) | (of("user_repeat_share") > 0)
    is_done_with = (of("item_events") > 0) & ~is_taken_again
    near = 0.7 * of("score_history") + 0.3 * of("score_users")
    return near - 2 * is_done_with + _BEHIND**2 * of("task_popular_28d") + _BEHIND**3 * of("all_popular")


def _neighbours(of: _Features) -> np.ndarray:
    return of("score_neighbours") + _BEHIND**2 * of("task_popular_28d")


def _ease(of: _Features) -> np.ndarray:
    return of("score_ease") + _BEHIND**2 * of("task_popular_28d")


def _most_popular(of: _Features) -> np.ndarray:
    return of("task_users") + _BEHIND * of("all_popular")


def _recently_popular(of: _Features) -> np.ndarray:
    return of("task_popular_7d") + _BEHIND * of("task_popular_28d")


ORDERS: Mapping[str, Callable[[_Features], np.ndarray]] = {
    "own_decayed": _own_decayed,
    "personal_frequency": _personal_frequency,
    "own_and_similar_users": _own_and_similar_users,
    "neighbours": _neighbours,
    "ease": _ease,
    "most_popular": _most_popular,
    "recently_popular": _recently_popular,
}


# What is published where nothing was learned.
UNLEARNED = "own_and_similar_users"


def order_scores(name: str, features_CG: np.ndarray) -> np.ndarray:
    """Scores of one of ``ORDERS``, float64 [C]; ``features_CG`` has the columns of ``FEATURE_NAMES``."""
    return ORDERS[name](lambda feature: features_CG[:, FEATURE_NAMES.index(feature)].astype(np.float64))
