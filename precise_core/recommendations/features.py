"""The features of a candidate: what may be known of a user and an item before an instant.

The same function makes them for a day in the past and for tonight. Shapes: C candidates, B users, N vocabulary rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from precise_core.config.tasks import ALL_TASK
from precise_core.recommendations.history import Tally, UserEvents, filled, item_tally, tally
from precise_core.recommendations.item_facts import ItemFacts, share_within
from precise_core.recommendations.point_in_time import PointInTime
from precise_core.recommendations.sources import Candidates
from schemas.recommendations import FEATURE_NAMES

_LONG_AGO = 3650.0  # days, where something never was


@dataclass(frozen=True)
class UserTallies:
    """Counts of B users: by item, narrowest category and text over all events, and by item over the task's."""

    events: UserEvents
    items: Tally
    categories: Tally
    texts: Tally

    @classmethod
    def of(cls, events: UserEvents, known: PointInTime) -> UserTallies:
        items_E = events.item_rows_E
        of_kinds = (_of_kinds(events, kinds_N[items_E]) for kinds_N in (known.categories_N, known.texts_N))
        return cls(events, item_tally(events), *of_kinds)


def _of_kinds(events: UserEvents, kinds_E: np.ndarray) -> Tally:
    """By category or text; items without one (0) have nothing in common."""
    return tally(events.where(kinds_E > 0), kinds_E[kinds_E > 0])


def candidate_features(
    candidates: Candidates, users: UserTallies, of_task: Tally, known: PointInTime, facts: Mapping[str, np.ndarray]
) -> np.ndarray:
    """float32 [C, G], columns as ``FEATURE_NAMES``.

    Args:
        of_task: Events of the task by item.
        facts: Of the task and the candidates' items (``FeatureFacts.at``).
    """
    rows_C, items_C = candidates.user_rows_C, candidates.item_rows_C
    found = _of_pair("item", users.items, rows_C, items_C)
    found |= _of_pair("task_item", of_task, rows_C, items_C)
    found |= _of_pair("category", users.categories, rows_C, known.categories_N[items_C])
    found |= _of_pair("text", users.texts, rows_C, known.texts_N[items_C])
    found |= _of_user(users, rows_C, np.expm1(found["item_events"]))
    found |= facts
    for source, ranks_C in candidates.ranks.items():
        found[f"rank_{source}"] = 1 / np.sqrt(ranks_C)
    for source, scores_C in candidates.scores.items():
        best_B = np.full(users.events.users, 1e-12)
        np.maximum.at(best_B, rows_C, scores_C)
        found[f"score_{source}"], found[f"relative_{source}"] = scores_C, scores_C / best_B[rows_C]
    features_GC = np.zeros((len(FEATURE_NAMES), len(candidates)), np.float32)  # 0: a source is off, or knows nobody
    for row, name in enumerate(FEATURE_NAMES):
        features_GC[row] = found.get(name, 0)
    return np.ascontiguousarray(features_GC.T)


def _of_pair(name: str, of: Tally, users: np.ndarray, things: np.ndarray) -> dict[str, np.ndarray]:
    at = of.positions(users, things)
    interval_C, last_C = filled(of.mean_interval_P, at, np.nan), filled(of.last_P, at, _LONG_AGO)
    has_interval = ~np.isnan(interval_C)
    found = {
        "events": filled(of.counts_P, at, 0),
        "days": filled(of.days_P, at, 0),
        "first_age": filled(of.first_P, at, _LONG_AGO),
        "last_age": last_C,
        "interval": np.where(has_interval, interval_C, 0),
        "overdue": np.where(has_interval, last_C / np.maximum(interval_C, 0.5), 0),
    }
    found |= {f"events_{days}d": filled(counts, at, 0) for days, counts in of.recent.items()}
    found |= {f"decayed_{half:g}d": filled(sums, at, 0) for half, sums in of.decayed.items()}
    return {f"{name}_{what}": np.log1p(values_C) for what, values_C in found.items()}


def _of_user(users: UserTallies, rows_C: np.ndarray, events_on_item_C: np.ndarray) -> dict[str, np.ndarray]:
    events, own = users.events, users.items

    def by_user(rows: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(rows, weights, events.users)

    last_B, first_B = np.full(events.users, _LONG_AGO), np.zeros(events.users)
    np.minimum.at(last_B, events.user_rows_E, events.ages_E)
    np.maximum.at(first_B, events.user_rows_E, events.ages_E)
    count_B, distinct_B = by_user(events.user_rows_E), by_user(own.user_rows_P)
    of_items_B = by_user(own.user_rows_P, own.counts_P)  # without those on items that the vocabulary lacks
    found_B = {
        "user_events": np.log1p(count_B),
        "user_events_28d": np.log1p(by_user(events.user_rows_E, (events.ages_E <= 28).astype(float))),
        "user_items": np.log1p(distinct_B),
        "user_repeat_share": (of_items_B - distinct_B) / np.maximum(of_items_B, 1),
        "user_new_items_28d": np.log1p(by_user(own.user_rows_P, (own.first_P <= 28).astype(float))),
        "user_first_age": np.log1p(first_B),
        "user_last_age": np.log1p(last_B),
    }
    found = {name: values_B[rows_C] for name, values_B in found_B.items()}
    found["user_item_share"] = events_on_item_C / np.maximum(count_B[rows_C], 1)
    return found


class FeatureFacts:
    """The features that depend on the item alone, of every task, made once for all users.

    Args:
        known: Has the facts of `all` and of each of ``tasks``.
    """

    def __init__(self, known: PointInTime, tasks: Iterable[str]) -> None:
        self._all = _of_items("all", known.facts[ALL_TASK], known)
        self._tasks = {task: _of_items("task", known.facts[task], known) for task in tasks}

    def at(self, task: str, items_C: np.ndarray) -> dict[str, np.ndarray]:
        """By name, float32 [C]."""
        return {name: values_N[items_C] for name, values_N in (self._all | self._tasks[task]).items()}


def _of_items(name: str, of: ItemFacts, known: PointInTime) -> dict[str, np.ndarray]:
    found = {"popular": np.log1p(of.events_N), "users": np.log1p(of.users_N), "repeat_rate": of.repeat_rate_N}
    found |= {f"popular_{days}d": np.log1p(values_N) for days, values_N in of.recent.items()}
    found |= {f"first_time_{days}d": np.log1p(values_N) for days, values_N in of.first_time.items()}
    found["age"] = np.log1p(np.minimum(of.first_age_N, _LONG_AGO))
    found["idle"] = np.log1p(np.minimum(of.last_age_N, _LONG_AGO))
    found["trend"] = np.log((of.recent[7] * 4 + 1) / (of.recent[28] + 1))
    found["category_share"] = share_within(of.recent[28], known.categories_N)
    found["text_share"] = share_within(of.recent[28], known.texts_N)
    wanted = {f"{name}_{what}": values_N for what, values_N in found.items()}
    return {key: values_N.astype(np.float32) for key, values_N in wanted.items() if key in FEATURE_NAMES}
