"""What is known of every item before an instant: how popular, how new, how often taken again.

Shapes: N vocabulary rows, E events, P distinct pairs of user and item.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

POPULAR_DAYS = (1, 3, 7, 28)
FIRST_TIME_DAYS = (7, 28)


@dataclass(frozen=True)
class ItemFacts:
    """Facts of one task, by vocabulary row; float64 [N] unless said otherwise.

    Attributes:
        events_N: Events of all time.
        recent: Events of the last 1, 3, 7 and 28 days, by days.
        first_time: Users who had the item for the first time in the last 7 and 28 days, by days.
        users_N: Users who ever had it.
        repeaters_N: Users who had it more than once.
        first_age_N, last_age_N: Days since its first and last event; infinite without one.
        allowed_N: Mask of the items that may be recommended.
    """

    events_N: np.ndarray
    recent: dict[int, np.ndarray]
    first_time: dict[int, np.ndarray]
    users_N: np.ndarray
    repeaters_N: np.ndarray
    first_age_N: np.ndarray
    last_age_N: np.ndarray
    allowed_N: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by one name each, as ``of`` reads them."""
        single = {name: values for name, values in vars(self).items() if not isinstance(values, dict)}
        recent = {f"recent.{days}": values for days, values in self.recent.items()}
        return single | recent | {f"first_time.{days}": values for days, values in self.first_time.items()}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> ItemFacts:
        """The facts in ``arrays``."""
        single = {name: values for name, values in arrays.items() if "." not in name}
        recent = {days: arrays[f"recent.{days}"] for days in POPULAR_DAYS}
        return cls(**single, recent=recent, first_time={days: arrays[f"first_time.{days}"] for days in FIRST_TIME_DAYS})

    @property
    def repeat_rate_N(self) -> np.ndarray:
        """Share of an item's users who had it more than once; 0 without users."""
        return self.repeaters_N / np.maximum(self.users_N, 1)


def share_within(values_N: np.ndarray, groups_N: np.ndarray) -> np.ndarray:
    """Each value's share of the sum over its group (category or text), 0 where that is 0 or there is no group (0)."""
    totals = np.bincount(groups_N, values_N)
    return np.where(groups_N > 0, values_N / np.maximum(totals, 1e-12)[groups_N], 0.0)
