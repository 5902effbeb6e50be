"""What each source of candidates adds to the others: overlap, and truth that nobody else finds.

U users with a truth, K places of a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from precise_core.evaluation.bootstrap import mean_intervals
from precise_core.evaluation.groups import ALL
from precise_core.evaluation.protocol import EvaluationTask
from schemas import columns as c

OVERLAP, UNIQUE_HIT_RATE = "overlap", "unique_hit_rate"


def source_figures(
    lists: Mapping[str, np.ndarray], task: EvaluationTask, *, user_filter: str, model_version: str | None
) -> list[dict[str, Any]]:
    """Rows of `evaluation_metrics` (question `recall`) for several sources of candidates.

    `overlap` at k: share of a source's first k candidates that are among the first k of another source; over the users
    for whom it has any. `unique_hit_rate` at k: share of the users for whom the source finds a truth item among its
    first k that no other source has there.

    Args:
        lists: By source, item rows [users, K] for every user row, best first, -1 = nothing.
        task: The question.
        user_filter: `new` where the lists were made without the items the users had: these are no truth either.
        model_version: The checkpoint of the lists.
    """
    rows = []
    for name in lists:
        values = dict(_values(name, lists, task, user_filter))
        means, lows, highs = mean_intervals(np.stack(list(values.values()), axis=1), task.samples, task.seed)
        for (metric, k), mean, low, high in zip(values, means, lows, highs, strict=True):
            users = int((~np.isnan(values[metric, k])).sum())
            if users:
                about = {"question": "recall", c.TASK: task.task, "system": name, c.MODEL_VERSION: model_version}
                place = {"user_filter": user_filter, "item_group": ALL, "metric": metric, "k": k, c.AS_OF: task.as_of}
                figure = {"value": float(mean), "ci_low": float(low), "ci_high": float(high), "users": users}
                rows.append(about | place | figure)
    return rows


def _values(
    name: str, lists: Mapping[str, np.ndarray], task: EvaluationTask, user_filter: str
) -> Iterator[tuple[tuple[str, int], np.ndarray]]:
    users, items = task.user_rows, task.truth.shape[1]
    truth = task.truth_under(user_filter)[users]
    has_truth_U = np.diff(truth.indptr) > 0
    truth_keys = _keys(np.repeat(np.arange(len(users)), np.diff(truth.indptr)), truth.indices, items)
    for k in task.ks:
        own_UK = lists[name][users][:, :k]
        others = [_list_keys(lists[other][users][:, :k], items) for other in lists if other != name]
        shared_UK = np.isin(_padded_keys(own_UK, items), np.concatenate(others)) if others else np.zeros(own_UK.shape)
        filled_U = (own_UK >= 0).sum(axis=1)
        overlap_U = np.full(len(users), np.nan)
        np.divide(shared_UK.sum(axis=1), filled_U, out=overlap_U, where=filled_U > 0)
        yield (OVERLAP, k), overlap_U
        is_hit_UK = np.isin(_padded_keys(own_UK, items), truth_keys) & ~shared_UK.astype(bool)
        yield (UNIQUE_HIT_RATE, k), np.where(has_truth_U, is_hit_UK.any(axis=1).astype(float), np.nan)


def _keys(users: np.ndarray, item_rows: np.ndarray, items: int) -> np.ndarray:
    return users.astype(np.int64) * items + item_rows


def _padded_keys(ranked_UK: np.ndarray, items: int) -> np.ndarray:
    """One number per (user, item); -1 = nothing, which is no number of any."""
    keys_UK = _keys(np.arange(len(ranked_UK))[:, None], ranked_UK, items)
    return np.where(ranked_UK >= 0, keys_UK, -1)


def _list_keys(ranked_UK: np.ndarray, items: int) -> np.ndarray:
    keys_UK = _padded_keys(ranked_UK, items)
    return keys_UK[keys_UK >= 0]
