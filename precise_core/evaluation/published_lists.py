"""The published lists as systems of the question `recommendations`, and each beside the best simple reference.

U users, V users with a truth, K places of a list, N vocabulary rows, R rows of `recommendations`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from precise_core.errors import NothingToEvaluateError
from precise_core.evaluation.groups import ALL
from precise_core.evaluation.names import NDCG_GAIN, RECOMMENDATIONS, main_cut
from precise_core.evaluation.protocol import (
    EvaluationResult,
    EvaluationTask,
    MetricKey,
    evaluate_lists,
    metric_row,
)
from precise_core.evaluation.questions import OfflineEvaluation
from precise_core.recommendations.config import ListConfig
from schemas import columns as c

_FILTERS = {"allow": "all", "exclude": "new", "only": "repeat"}  # by what a list does with repeats


@dataclass(frozen=True)
class PublishedList:
    """One list of every user; ``ranked_UK`` are item rows, best first, -1 = nothing."""

    system: str
    user_filter: str
    ranked_UK: np.ndarray
    model_version: str


@dataclass(frozen=True)
class Bar:
    """NDCG at ``k`` of the simple references for each user with a truth, by user filter and reference."""

    k: int
    values: Mapping[str, Mapping[str, np.ndarray]]

    @classmethod
    def of(cls, retrieved: EvaluationResult, references: Iterable[str], task: EvaluationTask) -> Bar:
        """From the figures of the question `retrieval`; all else of them can be dropped."""
        k, names = main_cut(task.ks), set(references)
        values: dict[str, dict[str, np.ndarray]] = {}
        for key, found_V in retrieved.per_user.items():
            if (key.metric, key.k, key.item_group) == ("ndcg", k, ALL) and key.system in names:
                values.setdefault(key.user_filter, {})[key.system] = found_V
        return cls(k, values)

    def best(self, user_filter: str) -> str | None:
        """The reference with the highest mean, the first by name of equal ones; None where there is none."""
        means = {name: np.nanmean(found_V) for name, found_V in self.values.get(user_filter, {}).items()}
        return min(means, key=lambda name: (-means[name], name), default=None)


def system_names(policies: Mapping[str, ListConfig]) -> dict[str, str]:
    """System of each list: the first of its policy stands for the task, others have their name in brackets."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name, policy in policies.items():
        found[name] = f"{RECOMMENDATIONS} ({name})" if policy.repeat in taken else RECOMMENDATIONS
        taken.add(policy.repeat)
    return found


def published_lists(
    evaluation: OfflineEvaluation, rows: pa.Table, policies: Mapping[str, ListConfig], task: str
) -> Iterable[PublishedList]:
    """Each list of a task that has rows, as its users find it, one after the other.

    Whoever has no row of the task gets the list of ``ANYBODY``.
    """
    question = evaluation.question(task)
    user_rows_R, is_known_R = evaluation.user_rows(rows[c.USER_ID])
    has_own_U = np.zeros(len(evaluation.user_ids), bool)
    has_own_U[user_rows_R[is_known_R]] = True
    others = question.user_rows[~has_own_U[question.user_rows]]
    is_anybody_R = pc.equal(rows[c.USER_ID], c.ANYBODY).to_numpy(zero_copy_only=False)
    width = max(question.ks)
    for name, system in system_names(policies).items():
        is_listed_R = pc.equal(rows[c.LIST], name).to_numpy(zero_copy_only=False) & (rows[c.RANK].to_numpy() <= width)
        if not is_listed_R.any():
            continue
        ranked_UK = np.full((len(evaluation.user_ids), width), -1, np.int64)
        _place(ranked_UK, evaluation, rows, user_rows_R, is_listed_R & is_known_R)
        general_1K = np.full((1, width), -1, np.int64)
        _place(general_1K, evaluation, rows, np.zeros(len(rows), np.int64), is_listed_R & is_anybody_R)
        ranked_UK[others] = general_1K
        versions = pc.value_counts(rows[c.MODEL_VERSION].filter(pa.array(is_listed_R))).to_pylist()
        version = max(versions, key=lambda found: (found["counts"], found["values"]))["values"]
        yield PublishedList(system, _FILTERS[policies[name].repeat], ranked_UK, version)


def measure_lists(
    lists: Iterable[PublishedList], question: EvaluationTask, bar: Bar
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of `evaluation_metrics`, and a line for each comparison with the best reference."""
    rows, lines = [], []
    for found in lists:
        if not question.truth_under(found.user_filter).nnz:
            continue
        measured = evaluate_lists(
            {found.system: found.ranked_UK},
            question,
            user_filter=found.user_filter,
            model_versions={found.system: found.model_version},
            question=RECOMMENDATIONS,
        )
        rows += measured.rows
        against = _against_best(found, measured, question, bar)
        if against is not None:
            rows.append(against[0])
            lines.append(against[1])
    if not rows:
        raise NothingToEvaluateError(f"{RECOMMENDATIONS} has no list of {question.task} that has a truth")
    return rows, lines


def _against_best(
    found: PublishedList, measured: EvaluationResult, question: EvaluationTask, bar: Bar
) -> tuple[dict[str, Any], str] | None:
    """Paired over users: the row of ``NDCG_GAIN``, and it in words; None where no reference was measured."""
    reference = bar.best(found.user_filter)
    if reference is None:
        return None
    ours = MetricKey(found.system, found.user_filter, ALL, "ndcg", bar.k)
    ours_V, theirs_V = measured.per_user[ours], bar.values[found.user_filter][reference]
    both = EvaluationResult(measured.user_rows, per_user={ours: ours_V, ours._replace(system=reference): theirs_V})
    (paired,) = both.compare(reference, samples=question.samples, seed=question.seed)
    difference, low, high = paired["difference"], paired["ci_low"], paired["ci_high"]
    figure = (difference, low, high, int((~np.isnan(ours_V)).sum()))
    key = ours._replace(metric=NDCG_GAIN)
    row = metric_row(RECOMMENDATIONS, question.task, question.as_of, found.model_version, key, figure)
    line = (
        f"{question.task}, {found.user_filter}: {found.system} {np.nanmean(ours_V):.4f} against {reference} "
        f"{np.nanmean(theirs_V):.4f}: {difference:+.4f} [{low:+.4f}, {high:+.4f}], p = {paired['p_value']:.3f}"
    )
    return row | {"reference": reference, "p_value": paired["p_value"]}, line


def _place(
    ranked_UK: np.ndarray, evaluation: OfflineEvaluation, rows: pa.Table, user_rows_R: np.ndarray, chosen_R: np.ndarray
) -> None:
    """Put the chosen rows at their users' ranks; an item that left the vocabulary leaves its place empty."""
    chosen = rows.filter(pa.array(chosen_R))
    is_item = evaluation.is_item(chosen[c.ITEM_ID])
    items = evaluation.item_rows(chosen[c.ITEM_ID].filter(pa.array(is_item)))
    ranked_UK[user_rows_R[chosen_R][is_item], chosen[c.RANK].to_numpy()[is_item] - 1] = items
