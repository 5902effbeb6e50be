"""What users did before an instant, as counts by user and thing.

Shapes: B users, E events, P distinct pairs of user and thing, C candidates, H half-lives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas import columns as c

RECENT_DAYS = (7, 28, 84)
HALF_LIVES = (10.0, 31.0, 125.0)
_KINDS = 1 << 32  # above any row of a vocabulary, a category or a text


@dataclass(frozen=True)
class UserEvents:
    """Events of B users before one instant, ordered by user, then oldest first.

    ``ages_E`` are days before the instant, float64, above 0. ``item_rows_E`` are among the N ``items`` of the
    vocabulary.
    """

    users: int
    items: int
    user_rows_E: np.ndarray
    item_rows_E: np.ndarray
    ages_E: np.ndarray

    def where(self, mask_E: np.ndarray) -> UserEvents:
        return UserEvents(
            self.users, self.items, self.user_rows_E[mask_E], self.item_rows_E[mask_E], self.ages_E[mask_E]
        )

    def of_items(self) -> UserEvents:
        """Those on an item of the vocabulary: what others have in common in the row of unknown items is nothing."""
        return self.where(self.item_rows_E >= c.FIRST_ITEM_INDEX)

    def newest(self, count: int) -> UserEvents:
        """The last ``count`` events of each user."""
        from_end = np.searchsorted(self.user_rows_E, self.user_rows_E, side="right") - np.arange(len(self.user_rows_E))
        return self.where(from_end <= count)


@dataclass(frozen=True)
class Tally:
    """How often, when and how regularly a user had a thing; the arrays are parallel, ordered by user and thing.

    Attributes:
        keys_P: ``pair_keys`` of user and thing, ascending.
        counts_P: Events.
        recent: Events of the last 7, 28 and 84 days, by days.
        decayed: Events weighted by .5 ** (age / half-life), by half-life.
        days_P: Distinct days with an event.
        first_P, last_P: Age of the first and of the last event in days.
    """

    keys_P: np.ndarray
    counts_P: np.ndarray
    recent: dict[int, np.ndarray]
    decayed: dict[float, np.ndarray]
    days_P: np.ndarray
    first_P: np.ndarray
    last_P: np.ndarray

    @property
    def user_rows_P(self) -> np.ndarray:
        return split_keys(self.keys_P)[0]

    @property
    def things_P(self) -> np.ndarray:
        return split_keys(self.keys_P)[1]

    @property
    def mean_interval_P(self) -> np.ndarray:
        """Days between two days with the thing; NaN where there was one day only."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.days_P > 1, (self.first_P - self.last_P) / (self.days_P - 1), np.nan)

    def positions(self, user_rows_C: np.ndarray, things_C: np.ndarray) -> np.ndarray:
        """Where each pair stands, int64 [C]; the number of pairs where the user never had the thing."""
        return positions_in(self.keys_P, pair_keys(user_rows_C, things_C))


def pair_keys(user_rows: np.ndarray, things: np.ndarray) -> np.ndarray:
    """One int64 per pair of a user and an item, category or text, ordered as the pairs."""
    return np.asarray(user_rows, np.int64) * _KINDS + np.asarray(things, np.int64)


def split_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Users and things of ``pair_keys``."""
    return keys // _KINDS, keys % _KINDS


def positions_in(sorted_keys: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Position of each key among distinct ascending ones; their number where it is none of them."""
    found = np.searchsorted(sorted_keys, keys)
    inside = np.minimum(found, max(len(sorted_keys) - 1, 0))
    is_there = sorted_keys[inside] == keys if len(sorted_keys) else np.zeros(len(keys), bool)
    return np.where(is_there, found, len(sorted_keys))


def filled(values_P: np.ndarray, positions_C: np.ndarray, missing: float) -> np.ndarray:
    """``values_P`` at positions of ``positions_in``, ``missing`` where there is none; float64 [C]."""
    return np.append(np.asarray(values_P, np.float64), missing)[positions_C]


def item_tally(events: UserEvents) -> Tally:
    """Counts by user and item; an event on an unknown item is none on any."""
    known = events.of_items()
    return tally(known, known.item_rows_E)


def tally(events: UserEvents, things_E: np.ndarray) -> Tally:
    """Counts by user and thing, where ``things_E`` are the events' items, categories or texts."""
    keys_E = pair_keys(events.user_rows_E, things_E)
    keys_P, pair_E, counts_P = np.unique(keys_E, return_inverse=True, return_counts=True)
    pairs, ages_E = len(keys_P), events.ages_E

    def summed(weights_E: np.ndarray) -> np.ndarray:
        return np.bincount(pair_E, weights_E, pairs)

    first_P, last_P = np.zeros(pairs), np.full(pairs, np.inf)
    np.maximum.at(first_P, pair_E, ages_E)
    np.minimum.at(last_P, pair_E, ages_E)
    pair_days = np.unique(pair_E * (1 << 20) + np.minimum(np.floor(ages_E).astype(np.int64), (1 << 20) - 1))
    return Tally(
        keys_P=keys_P,
        counts_P=counts_P.astype(np.float64),
        recent={days: summed((ages_E <= days).astype(np.float64)) for days in RECENT_DAYS},
        decayed={half_life: summed(0.5 ** (ages_E / half_life)) for half_life in HALF_LIVES},
        days_P=np.bincount(pair_days >> 20, minlength=pairs).astype(np.float64),
        first_P=first_P,
        last_P=last_P,
    )
