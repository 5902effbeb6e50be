"""One reason in words for each recommendation, true of the user and the item.

Shapes: R recommendations, E events.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import sparse

from precise_core.recommendations.history import UserEvents
from schemas.recommendations import FEATURE_NAMES

SEED = "{seed}"  # stands for the title of the seed item
_REGULAR_DAYS = 3  # days with the item that make a habit
_NEW_DAYS = 14
_TOGETHER = 0.05  # similarity below which "goes with" would be far-fetched


def reasons(
    features_RG: np.ndarray,
    user_rows_R: np.ndarray,
    item_rows_R: np.ndarray,
    events: UserEvents,
    near: Mapping[str, sparse.csr_matrix],
    seeds: int,
) -> tuple[list[str], np.ndarray]:
    """Words, with ``SEED`` where the seed's title belongs, and the seeds' vocabulary rows (-1 = none).

    The first that holds: a habit; had before; goes with a recent item; new and taken up; popular of late; found by
    what the user took, where nobody took it of late.
    """

    def of(name: str) -> np.ndarray:
        return np.expm1(features_RG[:, FEATURE_NAMES.index(name)].astype(np.float64))

    days, times, interval, last = (of(f"item_{name}") for name in ("days", "events", "interval", "last_age"))
    age, week, month = of("all_age"), of("all_popular_7d"), of("all_popular_28d")
    of_user = _of_category(features_RG)
    best_seed, strength = _best_seeds(user_rows_R, item_rows_R, events, near, seeds)
    words, seed_rows = [], np.full(len(user_rows_R), -1)
    for row in range(len(user_rows_R)):
        if times[row] >= 0.5 and days[row] >= _REGULAR_DAYS and interval[row] >= 1:
            words.append(f"taken every {interval[row]:.0f} days, last {_ago(last[row])}")
        elif times[row] >= 0.5:
            words.append(f"taken {_times(times[row])} before, last {_ago(last[row])}")
        elif strength[row] >= _TOGETHER:
            words.append(f"goes with {SEED}")
            seed_rows[row] = best_seed[row]
        elif age[row] <= _NEW_DAYS and week[row] >= 1:
            words.append(f"new, taken {_times(week[row])} this week")
        elif month[row] < 0.5:
            words.append("close to what the user took")
        elif of_user[row]:
            words.append("popular in a category of the user")
        else:
            words.append(f"popular: taken {_times(month[row])} in 28 days")
    return words, seed_rows


def _of_category(features_RG: np.ndarray) -> np.ndarray:
    return features_RG[:, FEATURE_NAMES.index("category_decayed_125d")] > 0.5


def _ago(days: float) -> str:
    whole = int(days * (1 + 1e-6))  # a feature is a float32: 7 days may have become a little less
    return "today" if whole == 0 else "yesterday" if whole == 1 else f"{whole:,} days ago"


def _times(count: float) -> str:
    whole = round(count)
    return "once" if whole == 1 else f"{whole:,} times"


def _best_seeds(
    user_rows_R: np.ndarray,
    item_rows_R: np.ndarray,
    events: UserEvents,
    near: Mapping[str, sparse.csr_matrix],
    seeds: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Of each recommendation the recent item of the user that it goes with best, and how well; -1 and 0 without."""
    best, strength = np.full(len(user_rows_R), -1), np.zeros(len(user_rows_R))
    newest = events.newest(seeds)
    bounds = np.searchsorted(newest.user_rows_E, np.arange(events.users + 1))
    for matrix in (near[name] for name in ("neighbours", "baskets") if name in near):
        for user in np.unique(user_rows_R):
            rows = np.flatnonzero(user_rows_R == user)
            own = np.unique(newest.item_rows_E[bounds[user] : bounds[user + 1]])
            if len(own):
                scores = matrix[own][:, item_rows_R[rows]].toarray()
                at = scores.argmax(axis=0)
                found = scores[at, np.arange(len(rows))]
                better = found > strength[rows]
                best[rows[better]], strength[rows[better]] = own[at[better]], found[better]
    return best, strength
