"""The offline evaluation: full ranking over a task's candidates, with intervals and paired tests by user.

Shapes: U users, N items, B users of one block, K places of a list. docs/evaluation.md defines each figure. A truth item
that is not a candidate stays in the truth and counts as missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from precise_core.bootstrap import mean_intervals, paired_differences
from precise_core.errors import DataError, ModelError, NothingToEvaluateError
from precise_core.evaluation.groups import ALL
from precise_core.evaluation.metrics import (
    hit_rate_at_k,
    hits_in,
    item_novelty,
    ndcg_at_k,
    novelty_at_k,
    recall_at_k,
    top_k_of_pairs,
    top_k_rows,
)
from precise_core.evaluation.references import Scorer
from schemas import columns as c

REPEAT = "repeat"
USER_FILTERS = ("all", "new", REPEAT)
_PER_USER_METRICS = {"recall": recall_at_k, "ndcg": ndcg_at_k, "hit_rate": hit_rate_at_k}
_DIFFERENCE = ("difference", "ci_low", "ci_high", "p_value")
_BLOCK_SCORES = 16_000_000  # 64 MB of float32 scores at a time


class MetricKey(NamedTuple):
    """Identifies a figure."""

    system: str
    user_filter: str
    item_group: str
    metric: str
    k: int


@dataclass(frozen=True)
class EvaluationTask:
    """A question, the same for every system.

    Attributes:
        as_of: End of training, start of the truth.
        truth: Items of the test period, bool CSR [U, N] (``pair_matrix``).
        history: Items the user had before, bool CSR [U, N]; `new` removes them, `repeat` keeps only them.
        candidates_N: Mask of the items that may be recommended for the task.
        groups: Masks [N] by name (``groups.item_groups``).
    """

    task: str
    as_of: datetime
    truth: sparse.csr_matrix
    history: sparse.csr_matrix
    candidates_N: np.ndarray
    groups: Mapping[str, np.ndarray]
    ks: Sequence[int] = (10, 30, 50)
    samples: int = 1000
    seed: int = 17

    def __post_init__(self) -> None:
        if self.truth.shape != self.history.shape or self.truth.shape[1] != len(self.candidates_N):
            raise DataError(
                f"evaluation of {self.task}: truth {self.truth.shape}, history {self.history.shape} and "
                f"{len(self.candidates_N)} candidates do not fit together"
            )
        if self.truth.nnz == 0:
            raise NothingToEvaluateError(
                f"evaluation of {self.task}: no user has an event in the test period after {self.as_of}"
            )

    @property
    def user_rows(self) -> np.ndarray:
        """Users with a truth; the order of every per-user array."""
        return np.flatnonzero(np.diff(self.truth.indptr))

    def truth_under(self, user_filter: str) -> sparse.csr_matrix:
        """The truth that counts under a filter [U, N]: `new` and `repeat` partition that of `all`."""
        if user_filter == "all":
            return self.truth
        repeated = self.truth.multiply(self.history).tocsr()
        return repeated if user_filter == REPEAT else self.truth > repeated

    @cached_property
    def novelty_N(self) -> np.ndarray:
        """Bits, float64 [N], by the share of the users with a history who had the item (``metrics.item_novelty``)."""
        users = int((np.diff(self.history.indptr) > 0).sum())
        return item_novelty(np.bincount(self.history.indices, minlength=self.history.shape[1]), users)


@dataclass
class EvaluationResult:
    """``rows`` for the table evaluation_metrics; ``per_user`` values (NaN = no truth in the group) for paired tests."""

    user_rows: np.ndarray
    rows: list[dict[str, Any]] = field(default_factory=list)
    per_user: dict[MetricKey, np.ndarray] = field(default_factory=dict)

    def compare(self, reference: str, *, samples: int, seed: int) -> list[dict[str, Any]]:
        """Paired difference of every other system to ``reference`` on every per-user metric, with p-value."""
        if reference not in {key.system for key in self.per_user}:
            raise DataError(f"compare: no system {reference!r}; there are {sorted({k.system for k in self.per_user})}")
        keys = [key for key in self.per_user if key.system != reference]
        if not keys:
            return []
        ours_UM, theirs_UM = (
            np.stack([self.per_user[key] for key in columns], axis=1)
            for columns in (keys, [key._replace(system=reference) for key in keys])
        )
        return [
            {**key._asdict(), "reference": reference, **dict(zip(_DIFFERENCE, numbers, strict=True))}
            for key, numbers in zip(keys, paired_differences(ours_UM, theirs_UM, samples, seed), strict=True)
        ]


def evaluate_ranking(
    systems: Mapping[str, Scorer],
    task: EvaluationTask,
    *,
    model_versions: Mapping[str, str | None] | None = None,
    user_filters: Sequence[str] = USER_FILTERS,
    pessimistic: bool = True,
) -> EvaluationResult:
    """Rank every candidate for every user with a truth, under some user filters and for all item groups.

    Args:
        model_versions: Checkpoint of each system; null in the table where there is none.
        user_filters: Some of `all` (nothing filtered; alone for leave-one-out), `new` (items the user had before are
            removed from ranking and truth) and `repeat` (only they are kept; of the group `all`, and left out where
            no user repeats).
        pessimistic: Truth items lose ties against others, so that no system wins by the order of rows; False orders
            equal scores by row. Published figures are pessimistic.
    """
    if unknown := sorted(set(user_filters) - set(USER_FILTERS)):
        raise DataError(f"user_filters {unknown}: not known; there are {list(USER_FILTERS)}")
    if REPEAT in user_filters and not task.truth_under(REPEAT).nnz:
        user_filters = [user_filter for user_filter in user_filters if user_filter != REPEAT]
    result = EvaluationResult(task.user_rows)
    for name, system in systems.items():
        lists = _rank(name, system, task, user_filters, pessimistic)
        for user_filter in user_filters:
            _add(result, task, "retrieval", name, user_filter, lists[user_filter], (model_versions or {}).get(name))
    return result


def evaluate_lists(
    lists: Mapping[str, np.ndarray],
    task: EvaluationTask,
    *,
    user_filter: str = "all",
    model_versions: Mapping[str, str | None] | None = None,
    question: str = "recall",
) -> EvaluationResult:
    """The same figures for lists that were made already: recalled candidates (Table VIII), or `recommendations`.

    ``lists`` are item rows [U, K] for every user row, best first, -1 = nothing; ``user_filter`` is `new` where they
    were made without the items the users had, which are then removed from the truth too.
    """
    result = EvaluationResult(task.user_rows)
    for name, ranked_UK in lists.items():
        if len(ranked_UK) != task.truth.shape[0]:
            raise DataError(f"lists of {name}: {len(ranked_UK)} users, the truth has {task.truth.shape[0]}")
        ranked = ranked_UK[task.user_rows]
        _add(result, task, question, name, user_filter, ranked, (model_versions or {}).get(name))
    return result


def ranked_candidates(name: str, system: Scorer, task: EvaluationTask, user_filter: str) -> np.ndarray:
    """A system's list for every user row, item rows [U, largest k], as ``evaluate_lists`` takes them.

    Users without a truth have none; ties are ranked as ``evaluate_ranking`` does.
    """
    ranked_UK = np.full((task.truth.shape[0], max(task.ks)), -1, np.int64)
    ranked_UK[task.user_rows] = _rank(name, system, task, [user_filter], True)[user_filter]
    return ranked_UK


def _rank(
    name: str, system: Scorer, task: EvaluationTask, user_filters: Sequence[str], pessimistic: bool
) -> dict[str, np.ndarray]:
    """Lists [users with truth, largest k] per user filter."""
    parts: dict[str, list[np.ndarray]] = {user_filter: [] for user_filter in user_filters}
    for users in _blocks(task.user_rows, task.truth.shape[1]):
        scores = system.scores(users)
        if scores.shape != (len(users), len(task.candidates_N)):
            raise ModelError(
                f"system {name}: scores {scores.shape} for {len(users)} users and {task.truth.shape[1]} items"
            )
        last = task.truth[users].toarray() if pessimistic else None
        scores[:, ~task.candidates_N] = -np.inf
        if "all" in parts:
            parts["all"].append(top_k_rows(scores, max(task.ks), last))
        if REPEAT in parts:
            parts[REPEAT].append(top_k_of_pairs(scores, task.history[users], max(task.ks), last))
        if "new" in parts:
            scores[task.history[users].nonzero()] = -np.inf
            parts["new"].append(top_k_rows(scores, max(task.ks), last))
    return {user_filter: np.concatenate(lists) for user_filter, lists in parts.items()}


def _add(
    result: EvaluationResult,
    task: EvaluationTask,
    question: str,
    system: str,
    user_filter: str,
    ranked_UK: np.ndarray,
    model_version: str | None,
) -> None:
    """Measure one system's lists under one filter and append rows and per-user values."""
    truth = task.truth_under(user_filter)[result.user_rows]
    groups = {ALL: task.groups[ALL]} if user_filter == REPEAT else task.groups
    hits_UK = _hits(truth, ranked_UK)
    values = {
        MetricKey(system, user_filter, group, metric, k): per_user
        for group, mask_N in groups.items()
        for metric, k, per_user in _group_metrics(truth, ranked_UK, hits_UK, mask_N, task.ks)
    }
    for k in task.ks:
        values[MetricKey(system, user_filter, ALL, "novelty", k)] = novelty_at_k(ranked_UK, task.novelty_N, k)
    result.per_user.update(values)
    result.rows += figure_rows(values, task, question, model_version)
    shown_N = np.zeros(len(task.candidates_N), bool)
    top_UK = ranked_UK[:, : max(task.ks)]
    shown_N[top_UK[top_UK >= 0]] = True
    for group, mask_N in groups.items():
        candidates_N = mask_N & task.candidates_N
        if candidates_N.any():
            key = MetricKey(system, user_filter, group, "coverage", max(task.ks))
            covered = (float(shown_N[candidates_N].mean()), None, None, len(ranked_UK))
            result.rows.append(metric_row(question, task.task, task.as_of, model_version, key, covered))


def figure_rows(
    values: Mapping[MetricKey, np.ndarray], task: EvaluationTask, question: str, model_version: str | None
) -> list[dict[str, Any]]:
    """Rows of `evaluation_metrics`: mean and interval of each figure over the users for whom it is not NaN."""
    means, lows, highs = mean_intervals(np.stack(list(values.values()), axis=1), task.samples, task.seed)
    users = [int((~np.isnan(per_user)).sum()) for per_user in values.values()]
    figures = zip(means.tolist(), lows.tolist(), highs.tolist(), users, strict=True)
    return [
        metric_row(question, task.task, task.as_of, model_version, key, figure)
        for key, figure in zip(values, figures, strict=True)
        if figure[-1]
    ]


def metric_row(
    question: str,
    task: str,
    as_of: datetime,
    model_version: str | None,
    key: MetricKey,
    figure: tuple[float, float | None, float | None, int],
) -> dict[str, Any]:
    """A row of `evaluation_metrics`; ``figure`` is (value, low, high, users)."""
    about = {"question": question, c.TASK: task, c.MODEL_VERSION: model_version, c.AS_OF: as_of}
    about |= {"reference": None, "p_value": None}
    return about | key._asdict() | dict(zip(("value", "ci_low", "ci_high", "users"), figure, strict=True))


def _hits(truth: sparse.csr_matrix, ranked_UK: np.ndarray) -> np.ndarray:
    """Whether each place holds a truth item, bool [U, K]; in blocks, because the truth is made dense."""
    rows = np.arange(len(ranked_UK))
    return np.concatenate(
        [hits_in(ranked_UK[block], truth[block].toarray()) for block in _blocks(rows, truth.shape[1])]
    )


def _group_metrics(
    truth: sparse.csr_matrix, ranked_UK: np.ndarray, hits_UK: np.ndarray, mask_N: np.ndarray, ks: Sequence[int]
) -> Iterator[tuple[str, int, np.ndarray]]:
    counts_U = truth @ mask_N.astype(np.int64)
    group_hits_UK = hits_UK & mask_N[ranked_UK]
    for name, metric in _PER_USER_METRICS.items():
        for k in ks:
            yield name, k, metric(group_hits_UK, counts_U, k)


def _blocks(rows: np.ndarray, items: int) -> Iterator[np.ndarray]:
    size = max(1, _BLOCK_SCORES // max(items, 1))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
