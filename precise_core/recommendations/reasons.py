"""One reason in words for each recommendation, true of the user and the item, and on any day that it is read.

Shapes: R recommendations, E events, P distinct pairs of user and item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from precise_core.recommendations.batches import MICROS_PER_DAY
from precise_core.recommendations.history import UserEvents, pair_keys, positions_in, split_keys
from precise_core.recommendations.names import BASKETS, NEIGHBOURS, OF_POPULAR, TEXT
from precise_core.recommendations.neighbours import entry_rows
from schemas.recommendations import FEATURE_NAMES

SEED = "{seed}"  # stands for the title of the seed item
_REGULAR_DAYS = 3  # days with the item that make a habit
_GIVEN_UP = 2  # intervals without the item that end it
_NEW_DAYS = 14
_POPULAR = 5  # times taken in 28 days, or ever, below which it would be no word for it
_TOGETHER = 0.05  # similarity below which "goes with" would be far-fetched
_ALIKE = 0.3  # cosine of texts below which "similar to" would be


@dataclass(frozen=True)
class BestSeeds:
    """Of users and the items that are near to what they had lately: the item each is nearest to, and how near.

    ``keys_P`` are ``pair_keys`` of user and item, ascending; the other arrays are parallel.
    """

    keys_P: np.ndarray
    seeds_P: np.ndarray
    strengths_P: np.ndarray

    @classmethod
    def of(cls, events: UserEvents, near: Sequence[sparse.csr_matrix], newest: int) -> BestSeeds:
        """Seeds are the items of the ``newest`` events of each user; of equal ones that of the lower row."""
        recent = events.newest(newest).of_items()  # an unknown item has no title
        users, items = split_keys(np.unique(pair_keys(recent.user_rows_E, recent.item_rows_E)))
        keys, seeds, strengths = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
        for matrix in near:
            found = matrix[items]
            rows = entry_rows(found)
            keys.append(pair_keys(users[rows], found.indices))
            seeds.append(items[rows])
            strengths.append(found.data)
        all_keys, all_seeds, all_strengths = (np.concatenate(parts) for parts in (keys, seeds, strengths))
        order = np.lexsort((all_seeds, -all_strengths, all_keys))
        keys_P, first = np.unique(all_keys[order], return_index=True)
        return cls(keys_P, all_seeds[order][first], all_strengths[order][first])

    def at(self, user_rows_R: np.ndarray, item_rows_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Seed and strength of each pair; -1 and 0 where there is none."""
        places_R = positions_in(self.keys_P, pair_keys(user_rows_R, item_rows_R))
        return np.append(self.seeds_P, -1)[places_R], np.append(self.strengths_P, 0.0)[places_R]


@dataclass(frozen=True)
class UserSeeds:
    """What items go with, by what users had together, and what they are similar to, by their texts."""

    together: BestSeeds
    alike: BestSeeds

    @classmethod
    def of(cls, events: UserEvents, near: Mapping[str, sparse.csr_matrix], newest: int) -> UserSeeds:
        kinds = ([near[name] for name in names if name in near] for names in ((NEIGHBOURS, BASKETS), (TEXT,)))
        return cls(*(BestSeeds.of(events, matrices, newest) for matrices in kinds))


def reasons(
    features_RG: np.ndarray,
    user_rows_R: np.ndarray,
    item_rows_R: np.ndarray,
    last_dates_R: np.ndarray,
    seeds: UserSeeds,
) -> tuple[list[str], np.ndarray]:
    """Words, with ``SEED`` where the seed's title belongs, and the seeds' vocabulary rows (-1 = none).

    The first that holds: a habit that was not given up; had before; goes with a recent item; similar to one, where
    nothing but its text found it or nobody took it of late; new and taken up; popular of late, or, where hardly anybody
    took it of late, found by what the user took, or what others took it.

    Args:
        last_dates_R: ``dates_before`` of when the user last had the item.
    """

    def of(name: str) -> np.ndarray:
        return np.expm1(features_RG[:, FEATURE_NAMES.index(name)].astype(np.float64))

    interval, last, age = (of(name) for name in ("item_interval", "item_last_age", "all_age"))
    times, days = (np.rint(of(f"item_{name}")) for name in ("events", "days"))
    week, month, ever = (np.rint(of(f"all_{name}")) for name in ("popular_7d", "popular_28d", "popular"))
    is_habit = (times > 0) & (days >= _REGULAR_DAYS) & (interval >= 1) & (last < _GIVEN_UP * interval)
    is_near = _found_by_what_is_near(features_RG)
    of_user = _of_category(features_RG)
    best_seed, strength = seeds.together.at(user_rows_R, item_rows_R)
    similar_seed, cosine = seeds.alike.at(user_rows_R, item_rows_R)
    is_similar = (cosine >= _ALIKE) & (_by_text_alone(features_RG) | (month == 0))
    words, seed_rows = [], np.full(len(user_rows_R), -1)
    for row in range(len(user_rows_R)):
        if is_habit[row]:
            words.append(f"taken every {_days(interval[row])} on average, last on {last_dates_R[row]}")
        elif times[row] > 0:
            words.append(f"taken {_times(times[row])} before, last on {last_dates_R[row]}")
        elif strength[row] >= _TOGETHER:
            words.append(f"goes with {SEED}")
            seed_rows[row] = best_seed[row]
        elif is_similar[row]:
            words.append(f"similar to {SEED}")
            seed_rows[row] = similar_seed[row]
        elif age[row] <= _NEW_DAYS and week[row] >= 1:
            words.append(f"new, taken {_times(week[row])} in 7 days")
        elif month[row] < _POPULAR and is_near[row]:
            words.append("close to what the user took")
        elif month[row] == 0:
            words.append(popularity(ever[row]))
        elif month[row] >= _POPULAR and of_user[row]:
            words.append("popular in a category of the user")
        else:
            words.append(popularity(month[row], " in 28 days"))
    return words, seed_rows


def _by_text_alone(features_RG: np.ndarray) -> np.ndarray:
    ranked = [at for at, name in enumerate(FEATURE_NAMES) if name.startswith("rank_")]
    found = features_RG[:, ranked] > 0
    return found[:, ranked.index(FEATURE_NAMES.index(f"rank_{TEXT}"))] & (found.sum(axis=1) == 1)


def _found_by_what_is_near(features_RG: np.ndarray) -> np.ndarray:
    """Whether a source that knows the user found it: any but those of popular items."""
    sources = {at: name.removeprefix("rank_") for at, name in enumerate(FEATURE_NAMES) if name.startswith("rank_")}
    of_users = [at for at, source in sources.items() if not source.startswith(OF_POPULAR)]
    return (features_RG[:, of_users] > 0).any(axis=1)


def _of_category(features_RG: np.ndarray) -> np.ndarray:
    return features_RG[:, FEATURE_NAMES.index("category_decayed_125d")] > 0.5


def dates_before(instant: int, ages_R: np.ndarray) -> np.ndarray:
    """Days (UTC, `2024-02-29`) that lie so many days before an instant in microseconds; str, of the infinite ones any.

    A date stays true: `yesterday` would be of the night, and who reads it comes later.
    """
    days_R = np.where(np.isfinite(ages_R), ages_R, 0.0)
    micros_R = instant - np.rint(days_R * MICROS_PER_DAY).astype(np.int64)
    return micros_R.astype("datetime64[us]").astype("datetime64[D]").astype(str)


def popularity(count: float, of_days: str = "") -> str:
    """`popular: taken 1,234 times in 28 days`; of what was hardly taken no more than how often."""
    what = "popular: taken" if count >= _POPULAR else "taken by others"
    return f"{what} {_times(count)}{of_days}"


def _days(interval: float) -> str:
    return "day" if round(interval) == 1 else f"{interval:.0f} days"


def _times(count: float) -> str:
    return "once" if count == 1 else f"{count:,.0f} times"
