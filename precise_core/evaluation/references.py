"""Simple references that count: popular items, and the user's own.

Shapes: E events, U users, N items, P pairs of a user and an item, B users of one block. Every reference has
``scores(user_rows_B) -> float32 [B, N]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import sparse

from precise_core.errors import ConfigError
from precise_core.recommendations.neighbours import pair_matrix

SECONDS_PER_DAY = 86_400


class Scorer(Protocol):
    """Anything that scores all items for some users."""

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        """float32 [B, N], higher is better, a fresh array that the caller may change."""


@dataclass(frozen=True)
class TrainingLog:
    """Events before the test period, as parallel arrays; times are seconds since 1970 (UTC).

    ``users`` and ``items`` count all rows, with and without events.
    """

    user_rows_E: np.ndarray
    item_rows_E: np.ndarray
    seconds_E: np.ndarray
    users: int
    items: int

    def item_counts(self) -> np.ndarray:
        """Events per item, int64 [N]."""
        return np.bincount(self.item_rows_E, minlength=self.items)

    def matrix(self) -> sparse.csr_matrix:
        """Which user had which item, bool [U, N]."""
        return pair_matrix(self.user_rows_E, self.item_rows_E, self.users, self.items)


def recent_counts(log: TrainingLog, days: float, as_of_seconds: int) -> np.ndarray:
    """Events per item in the ``days`` before ``as_of_seconds``, int64 [N]."""
    recent_E = (log.seconds_E >= as_of_seconds - days * SECONDS_PER_DAY) & (log.seconds_E < as_of_seconds)
    return np.bincount(log.item_rows_E[recent_E], minlength=log.items)


class MostPopular:
    """Events per item, of the ``days`` before ``as_of_seconds`` or of all time; the same for every user."""

    def __init__(self, log: TrainingLog, *, days: int | None = None, as_of_seconds: int | None = None) -> None:
        end = as_of_seconds if as_of_seconds is not None else int(log.seconds_E.max(initial=0)) + 1
        counts_N = log.item_counts() if days is None else recent_counts(log, days, end)
        self._scores_N = counts_N.astype(np.float32)

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        return np.tile(self._scores_N, (len(user_rows_B), 1))


class OwnThenPopular:
    """The user's own items, the strongest first, then popular ones; ties: the later, the more popular, by row.

    Scores are ranks, n for the first of a user's n items and 1 for the last, and the popularity of the others is below
    1: the order is kept without loss in float32, however small a strength is.
    """

    def __init__(self, pairs: OwnPairs, strength_P: np.ndarray, popularity_N: np.ndarray) -> None:
        # At most 1/2, so below every own item.
        self._popularity_N = (popularity_N / (2 * max(popularity_N.max(initial=0), 1))).astype(np.float32)
        self._own = pairs.ranked(strength_P, popularity_N)

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        block = np.tile(self._popularity_N, (len(user_rows_B), 1))
        own = self._own[user_rows_B].tocoo()
        block[own.row, own.col] = own.data
        return block


class PersonalFrequency(OwnThenPopular):
    """The user's own items, most frequent first, then the popular ones of all time (``OwnThenPopular``)."""

    def __init__(self, log: TrainingLog) -> None:
        pairs = OwnPairs(log)
        super().__init__(pairs, pairs.counts_P, log.item_counts())


class OwnDecayed(OwnThenPopular):
    """The user's own items by Σ exp(-age / τ), as ``OwnHistory``, then the popular ones of the last 28 days.

    How often and how recently at once, where ``PersonalFrequency`` knows how often. τ is ``days``; ages count from
    ``as_of_seconds``.

    Raises:
        ConfigError: ``days`` is not above 0.
    """

    _POPULAR_DAYS = 28

    def __init__(self, log: TrainingLog, *, as_of_seconds: int, days: float) -> None:
        pairs = OwnPairs(log)
        popularity_N = recent_counts(log, self._POPULAR_DAYS, as_of_seconds)
        super().__init__(pairs, pairs.decayed(as_of_seconds, days), popularity_N)


class OwnHistory:
    """log(1 + Σ exp(-age / τ)) over a user's events with an item: how often, and how recently; 0 for other items.

    τ is ``days``; ages count from ``as_of_seconds``.

    Attributes:
        strength_UN: The scores, float32 CSR [U, N].

    Raises:
        ConfigError: ``days`` is not above 0.
    """

    def __init__(self, log: TrainingLog, *, as_of_seconds: int, days: float) -> None:
        pairs = OwnPairs(log)
        self.strength_UN = pairs.matrix(np.log1p(pairs.decayed(as_of_seconds, days)).astype(np.float32))

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        return self.strength_UN[user_rows_B].toarray()


class OwnPairs:
    """The P distinct (user, item) pairs of a log, by user and then item.

    Attributes:
        counts_P: Events of each.
    """

    def __init__(self, log: TrainingLog) -> None:
        self._log = log
        keys = np.asarray(log.user_rows_E, np.int64) * log.items + log.item_rows_E
        pairs, self._inverse_E, self.counts_P = np.unique(keys, return_inverse=True, return_counts=True)
        self._users_P, self._items_P = np.divmod(pairs, max(log.items, 1))

    def decayed(self, as_of_seconds: int, days: float) -> np.ndarray:
        """Σ exp(-age / τ) over the events of each pair, float64 [P]; τ = ``days``, ages from ``as_of_seconds``.

        Summed in the order of the log: equal events give equal sums.

        Raises:
            ConfigError: ``days`` is not above 0.
        """
        if not days > 0:
            raise ConfigError(f"days {days} of the own history must be above 0")
        ages_E = (as_of_seconds - self._log.seconds_E) / SECONDS_PER_DAY
        weights_E = np.exp(-np.maximum(ages_E, 0) / days)
        return np.bincount(self._inverse_E, weights=weights_E, minlength=len(self.counts_P))

    def ranked(self, strength_P: np.ndarray, popularity_N: np.ndarray) -> sparse.csr_matrix:
        """n for the strongest of a user's n items, 1 for the last, float32 [U, N]."""
        latest_P = np.full(len(strength_P), np.iinfo(np.int64).min)
        np.maximum.at(latest_P, self._inverse_E, self._log.seconds_E)
        users, items = self._users_P, self._items_P
        order = np.lexsort((items, -popularity_N[items], -latest_P, -strength_P, users))
        ends = np.searchsorted(users, users, side="right")  # pairs are sorted by user, before and after ordering
        ranks = np.empty(len(order), np.float32)
        ranks[order] = ends - np.arange(len(order))
        return self.matrix(ranks)

    def matrix(self, values_P: np.ndarray) -> sparse.csr_matrix:
        """A value per pair as CSR [U, N]."""
        shape = (self._log.users, self._log.items)
        return sparse.csr_matrix((values_P, (self._users_P, self._items_P)), shape=shape)


class TruePreferences:
    """The probability of each item for each user, where the world that made the data is known."""

    def __init__(self, topics_UT: np.ndarray, items_TN: np.ndarray) -> None:
        self._topics_UT, self._items_TN = topics_UT, items_TN

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        return (self._topics_UT[user_rows_B] @ self._items_TN).astype(np.float32)
