"""The simple references against plain loops: what they say is what a person would count."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.evaluation.metrics import top_k_rows
from precise_core.evaluation.references import (
    SECONDS_PER_DAY,
    ItemKnn,
    MostPopular,
    PersonalFrequency,
    TrainingLog,
    build_references,
    pair_matrix,
)

USERS, ITEMS = 4, 8
events = st.lists(st.tuples(st.integers(0, USERS - 2), st.integers(0, ITEMS - 2), st.integers(0, 5)), max_size=40)


def make_log(rows: list[tuple[int, int, int]]) -> TrainingLog:
    users, items, seconds = np.array(rows, np.int64).reshape(-1, 3).T
    return TrainingLog(users, items, seconds, USERS, ITEMS)


def test_most_popular_counts_only_the_last_days_before_the_instant() -> None:
    day = SECONDS_PER_DAY
    log = make_log([(0, 0, day), (0, 0, day), (1, 0, 2 * day), (0, 1, 9 * day), (1, 1, 9 * day), (2, 2, 10 * day)])
    recent = MostPopular(log, days=7, as_of_seconds=10 * day).scores(np.array([0, 3]))
    assert recent[:, :3].tolist() == [[0, 2, 0], [0, 2, 0]]  # item 2 is of the instant itself, item 0 is too old
    assert MostPopular(log).scores(np.array([0]))[0, :3].tolist() == [3, 2, 1]


@given(events)
@settings(max_examples=60, deadline=None)
def test_personal_frequency_orders_own_items_then_popular_ones(rows: list[tuple[int, int, int]]) -> None:
    ranked = top_k_rows(PersonalFrequency(make_log(rows)).scores(np.arange(USERS)), ITEMS)
    popular = Counter(item for _, item, _ in rows)
    for user in range(USERS):
        counts = Counter(item for who, item, _ in rows if who == user)
        latest = {item: max(when for who, what, when in rows if (who, what) == (user, item)) for item in counts}
        own = sorted(counts, key=lambda item: (-counts[item], -latest[item], -popular[item], item))
        others = sorted(set(range(ITEMS)) - set(own), key=lambda item: (-popular[item], item))
        assert ranked[user].tolist() == own + others


def knn_oracle(
    rows: list[tuple[int, int, int]], user: int, shrinkage: float, history: int, neighbours: int
) -> np.ndarray:
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
def test_item_knn_equals_plain_loops(rows: list[tuple[int, int, int]], history: int, shrinkage: float) -> None:
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


def test_scores_do_not_depend_on_the_block_and_may_be_changed() -> None:
    random = np.random.default_rng(2)
    rows = [tuple(row) for row in np.stack([random.integers(0, n, 60) for n in (USERS, ITEMS, 9)], axis=1).tolist()]
    references = build_references(make_log(rows), as_of_seconds=9, popular_days=7, knn_shrinkage=10.0, knn_history=100)
    assert set(references) == {"most_popular_7d", "most_popular", "personal_frequency", "item_knn", "last_item_knn"}
    last = knn_oracle(rows, 2, 10.0, 1, ITEMS)
    np.testing.assert_allclose(references["last_item_knn"].scores(np.array([2]))[0], last, rtol=1e-5)
    for scorer in references.values():
        together = scorer.scores(np.array([2, 0]))
        expected = together.copy()
        together[:] = -1
        np.testing.assert_array_equal(scorer.scores(np.array([0])), expected[1:])
        np.testing.assert_array_equal(scorer.scores(np.array([2])), expected[:1])


def test_pairs_are_counted_once() -> None:
    matrix = pair_matrix(np.array([1, 1, 0]), np.array([2, 2, 1]), 3, 4)
    assert matrix.dtype == bool
    assert matrix.toarray().nonzero()[0].tolist() == [0, 1]
    assert matrix.nnz == 2
