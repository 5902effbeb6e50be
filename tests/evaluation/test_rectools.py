"""Our list metrics against those of RecTools, wherever the two mean the same.

RecTools' recall divides by the size of the truth, ours by min(K, size): they agree for one truth item per user and
where K is at least the size. Its NDCG divides by its ideal only where asked to; its novelty is MeanInvUserFreq.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from rectools.metrics import NDCG, CatalogCoverage, HitRate, MeanInvUserFreq, Recall

from precise_core.evaluation.groups import ALL
from precise_core.evaluation.protocol import EvaluationResult, EvaluationTask, MetricKey, evaluate_ranking
from precise_core.recommendations.neighbours import pair_matrix

USERS, ITEMS = 200, 40
KS = (1, 5, 10)


class _Fixed:
    def __init__(self, scores_UN: np.ndarray) -> None:
        self._scores = scores_UN.astype(np.float32)

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        return self._scores[user_rows_B]


def _world(truth_size: int) -> tuple[EvaluationResult, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Our figures, and the recommendations, truth and history in the shape of RecTools."""
    random = np.random.default_rng(truth_size)
    scores = random.random((USERS, ITEMS)) + np.linspace(0, 1, ITEMS)  # some items are in nobody's list
    truth = np.array([[user, item] for user in range(USERS) for item in random.choice(ITEMS, truth_size, False)]).T
    history = np.stack([random.integers(0, USERS, 200), random.integers(0, ITEMS - 5, 200)])
    task = EvaluationTask(
        task="all",
        as_of=datetime(2024, 3, 1, tzinfo=UTC),
        truth=pair_matrix(*truth, USERS, ITEMS),
        history=pair_matrix(*history, USERS, ITEMS),
        candidates_N=np.ones(ITEMS, bool),
        groups={ALL: np.ones(ITEMS, bool)},
        ks=KS,
        samples=100,
    )
    ranked = np.argsort(-scores, axis=1)[:, : max(KS)]
    recommended = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(USERS), max(KS)),
            "item_id": ranked.ravel(),
            "rank": np.tile(np.arange(1, max(KS) + 1), USERS),
        }
    )
    pairs = [pd.DataFrame({"user_id": rows, "item_id": items}) for rows, items in (truth, history)]
    return evaluate_ranking({"m": _Fixed(scores)}, task, user_filters=["all"]), recommended, *pairs


def _ours(result: EvaluationResult, metric: str, k: int) -> np.ndarray:
    return result.per_user[MetricKey("m", "all", ALL, metric, k)]


@pytest.mark.parametrize("truth_size", [1, 4])
@pytest.mark.parametrize("k", KS)
def test_per_user_figures_equal_those_of_rectools(truth_size: int, k: int) -> None:
    result, recommended, truth, history = _world(truth_size)
    theirs = {
        "hit_rate": HitRate(k=k).calc_per_user(recommended, truth),
        "ndcg": NDCG(k=k, divide_by_achievable=True).calc_per_user(recommended, truth),
        "novelty": MeanInvUserFreq(k=k).calc_per_user(recommended, history),
    }
    if k >= truth_size:
        theirs["recall"] = Recall(k=k).calc_per_user(recommended, truth)
    for metric, values in theirs.items():
        np.testing.assert_allclose(_ours(result, metric, k), values.sort_index(), err_msg=metric)
        assert values.nunique() > 1


def test_recall_differs_from_rectools_where_the_truth_is_longer_than_the_list() -> None:
    result, recommended, truth, _ = _world(4)
    theirs = Recall(k=1).calc_per_user(recommended, truth).sort_index()
    np.testing.assert_allclose(_ours(result, "recall", 1), theirs * 4)


def test_coverage_equals_that_of_rectools() -> None:
    result, recommended, _, _ = _world(1)
    theirs = CatalogCoverage(k=max(KS), normalize=True).calc(recommended, list(range(ITEMS)))
    (ours,) = [row["value"] for row in result.rows if row["metric"] == "coverage"]
    assert ours == pytest.approx(theirs)
    assert 0 < ours < 1
