"""What each source of candidates adds to the others: overlap, and truth that no other source finds.

U users with a truth, K places of a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from precise_core.bootstrap import ratio
from precise_core.evaluation.groups import ALL
from precise_core.evaluation.protocol import EvaluationTask, MetricKey, figure_rows

OVERLAP, UNIQUE_HIT_RATE = "overlap", "unique_hit_rate"


def source_figures(
    lists: Mapping[str, np.ndarray], task: EvaluationTask, *, user_filter: str, model_version: str | None
) -> list[dict[str, Any]]:
    """Rows of `evaluation_metrics` (question `recall`) for several sources of candidates.

    `overlap` at k: share of a source's first k candidates that are among the first k of another source; over the users
    for whom it has any. `unique_hit_rate` at k: share of the users for whom the source finds a truth item among its
    first k that no other source has there. ``lists`` and ``user_filter`` are those of ``evaluate_lists``.
    """
    return [
        row
        for name in lists
        for row in figure_rows(dict(_values(name, lists, task, user_filter)), task, "recall", model_version)
    ]


def _values(
    name: str, lists: Mapping[str, np.ndarray], task: EvaluationTask, user_filter: str
) -> Iterator[tuple[MetricKey, np.ndarray]]:
    users, items = task.user_rows, task.truth.shape[1]
    truth = task.truth_under(user_filter)[users]
    has_truth_U = np.diff(truth.indptr) > 0
    truth_keys = _keys(np.repeat(np.arange(len(users)), np.diff(truth.indptr)), truth.indices, items)
    for k in task.ks:
        own_UK = lists[name][users][:, :k]
        others = [_list_keys(lists[other][users][:, :k], items) for other in lists if other != name]
        shared_UK = np.isin(_padded_keys(own_UK, items), np.concatenate(others)) if others else np.zeros(own_UK.shape)
        overlap_U = ratio(shared_UK.sum(axis=1), (own_UK >= 0).sum(axis=1))
        yield MetricKey(name, user_filter, ALL, OVERLAP, k), overlap_U
        is_hit_UK = np.isin(_padded_keys(own_UK, items), truth_keys) & ~shared_UK.astype(bool)
        found_U = np.where(has_truth_U, is_hit_UK.any(axis=1).astype(float), np.nan)
        yield MetricKey(name, user_filter, ALL, UNIQUE_HIT_RATE, k), found_U


def _keys(users: np.ndarray, item_rows: np.ndarray, items: int) -> np.ndarray:
    return users.astype(np.int64) * items + item_rows


def _padded_keys(ranked_UK: np.ndarray, items: int) -> np.ndarray:
    """One number per (user, item); -1 = nothing, which is no number of any."""
    keys_UK = _keys(np.arange(len(ranked_UK))[:, None], ranked_UK, items)
    return np.where(ranked_UK >= 0, keys_UK, -1)


def _list_keys(ranked_UK: np.ndarray, items: int) -> np.ndarray:
    keys_UK = _padded_keys(ranked_UK, items)
    return keys_UK[keys_UK >= 0]
