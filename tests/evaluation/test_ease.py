"""EASE against the ridge regressions that it solves, and against RecTools."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import EASEModel
from scipy import sparse

from precise_core.errors import ConfigError, ModelError
from precise_core.evaluation.ease import Ease
from precise_core.recommendations.ease import ease_weights, frequent_items
from tests.evaluation.small_logs import ITEMS, USERS, Rows, events, had_by, make_log


def ridge_by_column(had: np.ndarray, penalty: float) -> np.ndarray:
    """Each item regressed on all others, column by column."""
    items = had.shape[1]
    weights = np.zeros((items, items))
    for item in range(items):
        others = [other for other in range(items) if other != item]
        inputs = had[:, others]
        normal = inputs.T @ inputs + penalty * np.eye(len(others))
        weights[others, item] = np.linalg.solve(normal, inputs.T @ had[:, item])
    return weights


@given(events, st.sampled_from([0.5, 250.0]))
@settings(max_examples=60, deadline=None)
def test_ease_is_a_ridge_regression_of_each_item_on_the_others(rows: Rows, penalty: float) -> None:
    had = had_by(rows)
    scores = Ease(make_log(rows), penalty=penalty).scores(np.arange(USERS))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, had @ ridge_by_column(had, penalty), rtol=1e-4, atol=1e-6)


def test_weights_are_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    had = (np.random.default_rng(3).random((50, 23)) < 0.2).astype(np.float32)
    monkeypatch.setattr("precise_core.recommendations.ease._BLOCK_ROWS", 5)
    weights = ease_weights(sparse.csr_matrix(had), 2.0)
    np.testing.assert_allclose(weights, ridge_by_column(had.astype(float), 2.0), rtol=1e-4, atol=1e-6)
    assert not weights.diagonal().any()


def test_weights_equal_those_of_rectools() -> None:
    random = np.random.default_rng(5)
    had = random.random((60, 20)) < 0.2
    users, items = had.nonzero()
    interactions = pd.DataFrame({Columns.User: users, Columns.Item: items, Columns.Weight: 1.0})
    interactions[Columns.Datetime] = "2024-01-01"
    dataset = Dataset.construct(interactions)
    theirs = EASEModel(regularization=7.0).fit(dataset)
    known = dataset.item_id_map.external_ids.astype(int)  # in the order of their weights
    ours = ease_weights(sparse.csr_matrix(had.astype(np.float32)), 7.0)
    np.testing.assert_allclose(ours[np.ix_(known, known)], theirs.weight, rtol=1e-3, atol=1e-5)


def test_items_beyond_the_cap_score_0() -> None:
    rows = [(user, item, 0) for user in range(3) for item in range(user, 3)] + [(0, 5, 0), (0, 5, 1)]
    assert frequent_items(np.array([1, 2, 3, 0, 0, 2, 0, 0]), 3).tolist() == [1, 2, 5]
    scores = Ease(make_log(rows), items=3, penalty=1.0).scores(np.arange(USERS))
    known = [1, 2, 5]
    had = had_by(rows)[:, known]
    np.testing.assert_allclose(scores[:, known], had @ ridge_by_column(had, 1.0), rtol=1e-4, atol=1e-6)
    assert not np.delete(scores, known, axis=1).any()


def test_of_equally_frequent_items_the_first_are_known() -> None:
    assert frequent_items(np.array([2, 0, 2, 3, 2]), 2).tolist() == [0, 3]
    assert frequent_items(np.array([0, 1, 0]), 5).tolist() == [1]
    assert frequent_items(np.zeros(ITEMS, int), 5).tolist() == []


def test_a_user_without_events_scores_0() -> None:
    scores = Ease(make_log([(0, 0, 0), (0, 1, 0)])).scores(np.array([3]))
    np.testing.assert_array_equal(scores, np.zeros((1, ITEMS)))


def test_a_penalty_that_cannot_be_solved_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="penalty 0"):
        Ease(make_log([]), penalty=0)
    with pytest.raises(ModelError, match="too small"):
        Ease(make_log([(user, item, 0) for user in range(3) for item in range(4)]), penalty=1e-30)
