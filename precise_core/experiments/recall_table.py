"""Table VIII offline: what U2I and U2I2I add to a recall baseline, for all and for cold-start users.

The paper adds a recall method to a baseline of DSSM and a graph network and counts clicks. Here every group has lists
of one length, whose sources take turns, and the share of users with a hit is compared: a new source takes
places of the others.

U users, K places of a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from precise_core.evaluation.groups import ALL
from precise_core.evaluation.protocol import EvaluationTask, evaluate_lists, ranked_candidates
from precise_core.evaluation.questions import OfflineEvaluation
from precise_core.evaluation.systems import EmbeddingScorer
from precise_core.experiments.merged_lists import merged_lists
from precise_core.experiments.seeds import figures_over_seeds
from precise_core.index.config import IndexConfig
from precise_core.index.index import build_index
from precise_core.recall.config import RecallConfig
from precise_core.recall.recall import recall_u2i2i
from precise_core.settings import Settings

BASELINE = "baseline"
ALL_USERS, COLD_USERS = "all users", "cold-start users"


def recall_figures(
    evaluation: OfflineEvaluation,
    task: str,
    by_seed: Sequence[Mapping[str, EmbeddingScorer]],
    settings: Settings,
) -> dict[str, Any]:
    """`figures` and `differences` (to the baseline) by kind of user, of the systems by name that each seed has.

    `experiment.recall` configures what is compared, `recall` U2I2I and whether items that users had are left out.
    """
    question = evaluation.question(task)
    cold = evaluation.cold_users(task, settings.experiment.recall.cold_events, settings.experiment.recall.cold_days)
    questions = {ALL_USERS: _of_users(question, np.ones(len(cold), bool)), COLD_USERS: _of_users(question, cold)}
    lists = [_lists(evaluation, question, scorers, settings) for scorers in by_seed]
    return {
        kind: figures_over_seeds(
            [evaluate_lists(of_seed, of_kind, user_filter=_filter(settings.recall)) for of_seed in lists],
            [BASELINE],
            samples=settings.evaluation.bootstrap_samples,
            seed=settings.seed,
        )
        for kind, of_kind in questions.items()
        if of_kind is not None
    }


def _of_users(question: EvaluationTask, chosen_U: np.ndarray) -> EvaluationTask | None:
    """The question for some users only; None where none of them has a truth."""
    truth = question.truth.multiply(chosen_U[:, None]).tocsr()
    truth.eliminate_zeros()
    return replace(question, truth=truth, groups={ALL: question.groups[ALL]}) if truth.nnz else None


def _filter(config: RecallConfig) -> str:
    return "new" if config.filter_seen else "all"


def _lists(
    evaluation: OfflineEvaluation, question: EvaluationTask, scorers: Mapping[str, EmbeddingScorer], settings: Settings
) -> dict[str, np.ndarray]:
    """One list per user and source [U, K]: each source alone, the baseline, and the baseline with one more source."""
    config, compared = settings.recall, settings.experiment.recall
    user_filter = _filter(config)
    baseline = {name: ranked_candidates(name, scorers[name], question, user_filter) for name in compared.baseline}
    popular_UK = ranked_candidates("popular", evaluation.most_popular(question.task), question, user_filter)
    ours = {}
    for name in compared.ours:
        ours[f"{name} U2I"] = ranked_candidates(name, scorers[name], question, user_filter)
        found_UK = _u2i2i(scorers[name], evaluation, question, config)
        has_none_U = (found_UK < 0).all(axis=1)
        ours[f"{name} U2I2I"] = np.where(has_none_U[:, None], popular_UK, found_UK)
    lists = baseline | ours | {BASELINE: merged_lists(list(baseline.values()))}
    for name, found_UK in ours.items():
        lists[f"{BASELINE} + {name}"] = merged_lists([*baseline.values(), found_UK])
    return lists


def _u2i2i(
    scorer: EmbeddingScorer, evaluation: OfflineEvaluation, question: EvaluationTask, config: RecallConfig
) -> np.ndarray:
    """Neighbours of the newest items of every user with a truth, [U, K]; nothing for users without a history.

    By item vectors, which every system has, whatever `recall.seed_vector` says.
    """
    rows, vectors = scorer.item_vectors()
    exact = IndexConfig(kind="flat")
    index = build_index([str(row) for row in rows], rows, vectors, model_version="", config=exact, seed=question.seed)
    row_of = np.full(len(question.candidates_N), -1, np.int64)
    row_of[rows] = np.arange(len(rows))
    with_history, histories, _ = evaluation.histories(question.task)
    recent = {user: row_of[items[::-1]] for user, items in zip(with_history, histories, strict=True)}
    users, nothing = question.user_rows, np.zeros(0, np.int64)
    had = [row_of[question.history[user].indices] for user in users] if config.filter_seen else None
    found = recall_u2i2i(
        index,
        [recent.get(user, nothing) for user in users],
        max(question.ks),
        config.model_copy(update={"seed_vector": "item"}),
        excluded=had,
        allowed_rows_N=question.candidates_N[rows],
    )
    ranked_UK = np.full((question.truth.shape[0], max(question.ks)), -1, np.int64)
    ranked_UK[users[found.user_rows_C], found.ranks_C - 1] = rows[found.item_rows_C]
    return ranked_UK
