"""Metrics against brute force and scikit-learn; intervals that cover and tests that notice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import ndcg_score, roc_auc_score

from precise_core.bootstrap import (
    auc_difference,
    auc_interval,
    mean_interval,
    mean_intervals,
    paired_difference,
)
from precise_core.errors import ModelError
from precise_core.evaluation.groups import item_groups
from precise_core.evaluation.impressions import calibration, calibration_error
from precise_core.evaluation.metrics import (
    auc_by_user,
    hit_rate_at_k,
    hits_in,
    log_loss_by_user,
    ndcg_at_k,
    recall_at_k,
    top_k_of_pairs,
    top_k_rows,
)
from precise_core.training.validation import _hits
from tests.evaluation.impression_metrics import auc, gauc, log_loss

rankings = st.integers(0, 10_000).map(np.random.default_rng)


def world(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores with ties and holes, truth of any size, a cut that may exceed the catalog."""
    users, items = int(random.integers(1, 5)), int(random.integers(1, 12))
    scores = random.integers(0, 4, (users, items)).astype(np.float32)
    scores[random.random((users, items)) < 0.2] = -np.inf
    return scores, random.random((users, items)) < 0.3, int(random.integers(1, 15))


@given(rankings)
@settings(max_examples=150, deadline=None)
def test_list_metrics_equal_brute_force(random: np.random.Generator) -> None:
    scores, truth, k = world(random)
    hits, counts = hits_in(top_k_rows(scores, k), truth), truth.sum(axis=1)
    found = [metric(hits, counts, k) for metric in (recall_at_k, ndcg_at_k, hit_rate_at_k)]
    for user in range(len(scores)):
        order = sorted(range(scores.shape[1]), key=lambda row: (-scores[user, row], row))
        ranked = [row for row in order if scores[user, row] > -np.inf][:k]
        right = [place for place, row in enumerate(ranked) if truth[user, row]]
        if not truth[user].any():
            assert all(math.isnan(values[user]) for values in found)
            continue
        ideal = sum(1 / math.log2(place + 2) for place in range(min(k, counts[user])))
        expected = [
            len(right) / min(k, counts[user]),
            sum(1 / math.log2(place + 2) for place in right) / ideal,
            float(bool(right)),
        ]
        assert [values[user] for values in found] == pytest.approx(expected)


def test_ndcg_equals_scikit_learn() -> None:
    random = np.random.default_rng(3)
    scores, truth = random.random((20, 60)).astype(np.float32), random.random((20, 60)) < 0.2
    ours = ndcg_at_k(hits_in(top_k_rows(scores, 10), truth), truth.sum(axis=1), 10)
    assert ours.mean() == pytest.approx(ndcg_score(truth, scores, k=10))


@given(rankings)
@settings(max_examples=100, deadline=None)
def test_own_candidates_are_ranked_as_if_all_others_were_none(random: np.random.Generator) -> None:
    scores, truth, k = world(random)
    own = random.random(scores.shape) < 0.5
    for last in (None, truth):
        expected = top_k_rows(np.where(own, scores, -np.inf), k, last)
        np.testing.assert_array_equal(top_k_of_pairs(scores, sparse.csr_matrix(own), k, last), expected)
    with pytest.raises(ModelError, match="are NaN"):
        top_k_of_pairs(np.full((1, 2), np.nan), sparse.csr_matrix(np.ones((1, 2), bool)), 1)


def test_a_perfect_list_scores_one_even_where_the_truth_is_longer_than_k() -> None:
    truth = np.ones((1, 30), bool)
    hits = hits_in(top_k_rows(np.arange(30.0)[None], 10), truth)
    assert recall_at_k(hits, np.array([30]), 10) == 1.0
    assert ndcg_at_k(hits, np.array([30]), 10) == pytest.approx(1.0)


def test_a_constant_system_wins_nothing_when_ties_are_pessimistic() -> None:
    scores, truth = np.zeros((1, 20), np.float32), np.zeros((1, 20), bool)
    truth[0, :3] = True
    assert hits_in(top_k_rows(scores, 5), truth).sum() == 3
    assert hits_in(top_k_rows(scores, 5, truth), truth).sum() == 0
    assert hits_in(top_k_rows(scores, 20, truth), truth).sum() == 3


@given(rankings)
@settings(max_examples=60, deadline=None)
def test_pessimistic_ranking_never_finds_more(random: np.random.Generator) -> None:
    scores, truth, k = world(random)
    counts = truth.sum(axis=1)
    stable = ndcg_at_k(hits_in(top_k_rows(scores, k), truth), counts, k)
    worst = ndcg_at_k(hits_in(top_k_rows(scores, k, truth), truth), counts, k)
    assert (worst[counts > 0] <= stable[counts > 0] + 1e-12).all()


@given(rankings)
@settings(max_examples=100, deadline=None)
def test_model_selection_ranks_like_the_evaluation(random: np.random.Generator) -> None:
    """The rows 0 and 1 are padding and unknown: never ranked, and 0 fills up the truth."""
    scores, truth, k = world(random)
    reserved = np.full((len(scores), 2), -np.inf, np.float32)
    scores, truth = np.hstack([reserved, scores]), np.hstack([reserved > 0, truth])
    expected = hits_in(top_k_rows(scores, k, truth), truth)
    truth_BM = np.zeros((len(truth), max(1, truth.sum(axis=1).max())), np.int64)
    for user, row in enumerate(truth):
        truth_BM[user, : row.sum()] = np.flatnonzero(row)
    hits = _hits(torch.from_numpy(scores), torch.from_numpy(truth_BM), k).numpy()
    np.testing.assert_array_equal(hits, expected[:, : hits.shape[1]])
    assert not expected[:, hits.shape[1] :].any()


def test_model_selection_finds_nothing_in_scores_that_are_not_numbers() -> None:
    assert not _hits(torch.full((2, 6), torch.nan), torch.tensor([[2, 3], [4, 0]]), 4).any()


def test_nan_scores_are_refused() -> None:
    with pytest.raises(ModelError, match="1 are NaN"):
        top_k_rows(np.array([[0.0, np.nan]]), 1)


@given(rankings)
@settings(max_examples=100, deadline=None)
def test_auc_and_gauc_equal_scikit_learn(random: np.random.Generator) -> None:
    size = int(random.integers(2, 60))
    users, labels = random.integers(0, 6, size), random.integers(0, 2, size)
    scores = random.integers(0, 5, size) / 5
    if 0 < labels.sum() < size:
        assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    else:
        assert math.isnan(auc(labels, scores))
    pieces = [
        (roc_auc_score(labels[users == user], scores[users == user]), (users == user).sum())
        for user in range(6)
        if 0 < labels[users == user].sum() < (users == user).sum()
    ]
    if pieces:
        assert gauc(users, labels, scores) == pytest.approx(
            np.average([a for a, _ in pieces], weights=[n for _, n in pieces])
        )
    else:
        assert math.isnan(gauc(users, labels, scores))


def test_gauc_does_not_reward_knowing_who_takes_more() -> None:
    users = np.repeat([0, 1], 4)
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 1])
    by_user = np.repeat([0.9, 0.1], 4)
    assert auc(labels, by_user) > 0.7
    assert gauc(users, labels, by_user) == 0.5


def test_log_loss_equals_scikit_learn_and_its_pieces_add_up() -> None:
    random = np.random.default_rng(0)
    users, labels, probabilities = random.integers(0, 9, 200), random.integers(0, 2, 200), random.random(200)
    assert log_loss(labels, probabilities) == pytest.approx(sklearn_log_loss(labels, probabilities))
    _, values, weights = log_loss_by_user(users, labels, probabilities)
    assert np.average(values, weights=weights) == pytest.approx(log_loss(labels, probabilities))
    assert np.isfinite(log_loss(np.array([1, 0]), np.array([0.0, 1.0], np.float32)))


def test_no_impressions_are_no_number_and_no_crash() -> None:
    nothing = np.empty(0)
    assert math.isnan(auc(nothing, nothing))
    assert math.isnan(gauc(nothing, nothing, nothing))
    assert math.isnan(log_loss(nothing, nothing))


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        _, low, high = mean_interval(random.exponential(1.0, 120), 300, trial)
        covered += low <= 1.0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_intervals_of_many_metrics_equal_those_of_one_without_its_nans() -> None:
    random = np.random.default_rng(6)
    values = random.random((50, 3))
    means, lows, highs = mean_intervals(values, 200, 1)
    for column in range(3):
        assert mean_interval(values[:, column], 200, 1) == pytest.approx((means[column], lows[column], highs[column]))
    with_holes = values[:, 0].copy()
    with_holes[::2] = np.nan
    mean, low, high = mean_interval(with_holes, 200, 1)
    assert mean == pytest.approx(np.nanmean(with_holes))
    assert low < mean < high
    assert all(math.isnan(value) for value in mean_interval(np.full(4, np.nan), 100, 1))


def test_the_paired_test_sees_a_small_steady_gain_and_not_noise() -> None:
    random = np.random.default_rng(7)
    base = random.random(400)
    difference, low, high, p_value = paired_difference(base + 0.01 + random.normal(0, 0.02, 400), base, 500, 1)
    assert low < difference < high
    assert low > 0
    assert p_value < 0.01
    assert paired_difference(base, base, 500, 1) == (0.0, 0.0, 0.0, 1.0)
    p_values = [paired_difference(random.random(60), random.random(60), 200, trial)[3] for trial in range(100)]
    assert sum(p < 0.05 for p in p_values) <= 14


def test_auc_interval_is_centred_on_auc_and_repeatable() -> None:
    random = np.random.default_rng(8)
    users, labels = random.integers(0, 60, 600), random.integers(0, 2, 600)
    scores = np.round(labels * 0.3 + random.random(600), 1)
    value, low, high = auc_interval(users, labels, scores, 200, 1)
    assert value == pytest.approx(roc_auc_score(labels, scores))
    assert low < value < high
    assert (value, low, high) == auc_interval(users, labels, scores, 200, 1)


def test_an_auc_difference_is_paired_by_user_and_not_fooled_by_noise() -> None:
    random = np.random.default_rng(12)
    users, labels = random.integers(0, 80, 1200), random.integers(0, 2, 1200)
    weak = labels * 0.3 + random.random(1200)
    strong = weak + 0.1 * labels
    difference, low, high, p_value = auc_difference(users, labels, strong, weak, 300, 1)
    assert difference == pytest.approx(roc_auc_score(labels, strong) - roc_auc_score(labels, weak))
    assert 0 < low < difference < high and p_value < 0.01
    apart = (auc_interval(users, labels, scores, 300, 1) for scores in (strong, weak))
    assert high - low < 0.5 * sum(interval[2] - interval[1] for interval in apart)
    noise = [auc_difference(users, labels, *random.random((2, 1200)), 100, trial)[3] for trial in range(60)]
    assert sum(p < 0.05 for p in noise) <= 9
    assert auc_difference(users, labels, weak, weak, 100, 1) == (0.0, 0.0, 0.0, 1.0)


def test_calibration_bins_hold_every_impression_once_and_find_what_is_off() -> None:
    random = np.random.default_rng(13)
    probabilities = np.round(random.beta(1, 4, 5000), 2)  # many ties
    labels = (random.random(5000) < probabilities).astype(int)
    bins = calibration(labels, probabilities)
    assert sum(part.impressions for part in bins) == 5000 and len(bins) == 10
    assert np.average([part.predicted for part in bins], weights=[part.impressions for part in bins]) == pytest.approx(
        probabilities.mean()
    )
    assert [part.predicted for part in bins] == sorted(part.predicted for part in bins)
    assert calibration_error(labels, probabilities) < 0.02
    assert calibration_error(labels, probabilities**0.5) > 0.15
    assert [part.impressions for part in calibration(labels, np.full(5000, 0.2))] == [5000]
    assert calibration(np.empty(0), np.empty(0)) == [] and math.isnan(calibration_error(np.empty(0), np.empty(0)))


def test_weighted_intervals_are_those_of_gauc() -> None:
    random = np.random.default_rng(9)
    users, labels, scores = random.integers(0, 30, 300), random.integers(0, 2, 300), random.random(300)
    _, values, weights = auc_by_user(users, labels, scores)
    assert mean_interval(values, 100, 1, weights)[0] == pytest.approx(gauc(users, labels, scores))


def test_item_groups_by_training_events() -> None:
    groups = item_groups(np.array([9, 0, 1, 4, 5, 9, 0]), hot_share=0.4)
    assert np.flatnonzero(groups["hot"]).tolist() == [0, 5]
    assert np.flatnonzero(groups["cold"]).tolist() == [1, 2, 3, 4, 6]
    assert np.flatnonzero(groups["rare"]).tolist() == [2, 3]
    np.testing.assert_array_equal(groups["seen"], ~groups["unseen"])
    assert np.flatnonzero(groups["unseen"]).tolist() == [1, 6]
    assert groups["all"].all()
