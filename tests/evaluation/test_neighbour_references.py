"""The neighbour references against plain loops over dense arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.errors import ConfigError
from precise_core.evaluation.neighbour_references import ItemKnn, TifuKnn, UserKnn, sampled_users
from tests.evaluation.small_logs import DAY, ITEMS, USERS, Rows, events, had_by, make_log


def knn_oracle(rows: Rows, user: int, shrinkage: float, history: int, neighbours: int) -> np.ndarray:
    buyers = [{who for who, item, _ in rows if item == row} for row in range(ITEMS)]
    mine = sorted((when, item) for who, item, when in rows if who == user)
    scores = np.zeros(ITEMS)
    for seed in {item for _, item in mine[-history:]}:
        similarity = [
            len(buyers[seed] & buyers[row]) / (np.sqrt(len(buyers[seed]) * len(buyers[row])) + shrinkage)
            if buyers[row]
            else 0.0
            for row in range(ITEMS)
        ]
        for row in sorted(range(ITEMS), key=lambda row: (-np.float32(similarity[row]), row))[:neighbours]:
            scores[row] += similarity[row]
    return scores


@given(events, st.integers(1, 6), st.sampled_from([0.0, 2.5]))
@settings(max_examples=60, deadline=None)
def test_item_knn_equals_plain_loops(rows: Rows, history: int, shrinkage: float) -> None:
    scores = ItemKnn(make_log(rows), shrinkage=shrinkage, history=history).scores(np.arange(USERS))
    assert scores.shape == (USERS, ITEMS)
    assert scores.dtype == np.float32
    for user in range(USERS):
        np.testing.assert_allclose(
            scores[user], knn_oracle(rows, user, shrinkage, history, ITEMS), rtol=1e-5, atol=1e-6
        )


def test_item_knn_keeps_the_nearest_neighbours_only() -> None:
    rows = [(0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 0, 0), (1, 1, 1), (2, 0, 3)]
    kept = ItemKnn(make_log(rows), shrinkage=0.0, neighbours=2).scores(np.array([2]))[0]
    np.testing.assert_allclose(kept, knn_oracle(rows, 2, 0.0, 100, 2), rtol=1e-6)
    assert np.count_nonzero(kept) == 2


def test_the_last_item_alone_is_a_history_of_one() -> None:
    rows = [(0, 0, 0), (0, 1, 1), (1, 1, 0), (1, 2, 1), (2, 0, 0), (2, 3, 1)]
    last = ItemKnn(make_log(rows), history=1).scores(np.array([0]))[0]
    np.testing.assert_allclose(last, knn_oracle(rows, 0, 10.0, 1, ITEMS), rtol=1e-5)


def nearest(vectors: np.ndarray, user: int, shrinkage: float, count: int) -> list[tuple[int, float]]:
    """The users most similar to one, and how similar; equal ones by row."""
    found = {}
    for other in range(len(vectors)):
        common = sum(a * b for a, b in zip(vectors[user], vectors[other], strict=True))
        if other != user and common > 0:
            lengths = np.sqrt(sum(vectors[user] ** 2)) * np.sqrt(sum(vectors[other] ** 2))
            found[other] = common / (lengths + shrinkage)
    return sorted(found.items(), key=lambda pair: (-round(pair[1], 12), pair[0]))[:count]


def user_knn_oracle(vectors: np.ndarray, shrinkage: float, count: int) -> np.ndarray:
    scores = np.zeros_like(vectors)
    for user in range(len(vectors)):
        for other, similarity in nearest(vectors, user, shrinkage, count):
            scores[user] += similarity * vectors[other]
    return scores


def tifu_oracle(vectors: np.ndarray, own_share: float, count: int) -> np.ndarray:
    scores = own_share * vectors
    for user in range(len(vectors)):
        found = nearest(vectors, user, 0.0, count)
        for other, _ in found:
            scores[user] += (1 - own_share) / len(found) * vectors[other]
    return scores


def faded(rows: Rows, as_of: int, days: float, users: int = USERS, items: int = ITEMS) -> np.ndarray:
    strength = np.zeros((users, items))
    for user, item, when in rows:
        strength[user, item] += np.exp(-(as_of - when) / DAY / days)
    return np.log1p(strength)


@given(events, st.sampled_from([0.0, 2.5]))
@settings(max_examples=60, deadline=None)
def test_user_knn_equals_plain_loops(rows: Rows, shrinkage: float) -> None:
    scores = UserKnn(make_log(rows), shrinkage=shrinkage).scores(np.arange(USERS))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, user_knn_oracle(had_by(rows), shrinkage, USERS), rtol=1e-5, atol=1e-6)


@given(events, st.sampled_from([0.0, 0.7, 1.0]), st.sampled_from([0.5, 180.0]))
@settings(max_examples=60, deadline=None)
def test_tifu_knn_equals_plain_loops(rows: Rows, own_share: float, days: float) -> None:
    rows = [(user, item, when * DAY) for user, item, when in rows]
    scores = TifuKnn(make_log(rows), as_of_seconds=5 * DAY, days=days, own_share=own_share).scores(np.arange(USERS))
    assert scores.dtype == np.float32
    expected = tifu_oracle(faded(rows, 5 * DAY, days), own_share, USERS)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 10])
def test_only_the_nearest_users_count_and_blocks_are_cut_alike(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random, users, items = np.random.default_rng(count), 40, 30
    numbers = [random.integers(0, top, 500) for top in (users, items, 90 * DAY)]
    rows = list(zip(*(number.tolist() for number in numbers), strict=True))
    log, as_of = make_log(rows, users, items), 90 * DAY
    # Parts of two users of a block are multiplied at a time.
    monkeypatch.setattr("precise_core.evaluation.neighbour_references._BLOCK_ENTRIES", 2 * users)
    mine = np.arange(users)
    tifu = TifuKnn(log, as_of_seconds=as_of, days=30.0, neighbours=count).scores(mine)
    expected = tifu_oracle(faded(rows, as_of, 30.0, users, items), 0.7, count)
    np.testing.assert_allclose(tifu, expected, rtol=1e-4, atol=1e-6)
    by_items = UserKnn(log, shrinkage=5.0, neighbours=count).scores(mine)
    expected = user_knn_oracle(had_by(rows, users, items), 5.0, count)
    np.testing.assert_allclose(by_items, expected, rtol=1e-4, atol=1e-6)


def test_equally_similar_users_count_by_row() -> None:
    rows = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (2, 0, 0), (2, 2, 0), (3, 0, 0), (3, 3, 0)]
    for scorer in (
        UserKnn(make_log(rows), neighbours=2),
        TifuKnn(make_log(rows), as_of_seconds=0, days=1, neighbours=2),
    ):
        assert np.flatnonzero(scorer.scores(np.array([0]))[0]).tolist() == [0, 1, 2]


def test_a_user_without_events_has_no_neighbours_and_is_none() -> None:
    rows = [(0, 0, 0), (1, 0, 0), (1, 1, 0)]
    for scorer in (UserKnn(make_log(rows)), TifuKnn(make_log(rows), as_of_seconds=0, days=1)):
        scores = scorer.scores(np.array([3, 0]))
        assert not scores[0].any()
        assert scores[1, 1] > 0


def test_a_user_whose_events_have_faded_keeps_finite_scores() -> None:
    rows = [(0, 0, 0), (1, 0, 400 * DAY), (1, 1, 400 * DAY)]
    scores = TifuKnn(make_log(rows), as_of_seconds=400 * DAY, days=5.0).scores(np.arange(USERS))
    assert np.isfinite(scores).all()
    assert scores[0, 1] > 0  # e^-80 is above 0 in float32, its square is not


def test_neighbours_are_sought_in_a_sample_that_stays_the_same() -> None:
    rows = np.arange(5, 25)
    sample = sampled_users(rows, 7)
    assert len(sample) == 7
    assert set(sample) < set(rows)
    assert (np.diff(sample) > 0).all()
    np.testing.assert_array_equal(sample, sampled_users(rows, 7))
    np.testing.assert_array_equal(sampled_users(rows, 20), rows)
    log = make_log([(user, item, 0) for user in range(3) for item in (0, user + 1)])
    (kept,) = sampled_users(np.arange(3), 1)
    for scorer in (UserKnn(log, neighbour_users=1), TifuKnn(log, as_of_seconds=0, days=1, neighbour_users=1)):
        scores = scorer.scores(np.arange(3))
        others = [user for user in range(3) if user != kept]
        assert all(scores[user, kept + 1] > 0 for user in others)
        assert not any(scores[user, other + 1] for user in others for other in others if other != user)


def test_an_own_share_beyond_0_to_1_is_refused() -> None:
    with pytest.raises(ConfigError, match="own_share 1.5"):
        TifuKnn(make_log([]), as_of_seconds=0, days=1, own_share=1.5)
