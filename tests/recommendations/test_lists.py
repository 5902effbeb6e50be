"""Rows as lists, and NDCG against a plain loop and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.errors import SchemaError
from precise_core.recommendations.lists import CandidateLists
from schemas import columns as c
from schemas.recommendations import FEATURE_NAMES
from tests.recommendations.ranked_lists import candidate_lists, rows

Row = tuple[str, str, int, bool, float]  # user, task, label, repeat, score


def lists_of(found: list[Row]) -> tuple[CandidateLists, np.ndarray]:
    """Lists, and the scores in their order; the first feature carries them."""
    nothing = {name: np.zeros(len(found), np.float32) for name in FEATURE_NAMES[1:]}
    users, tasks, labels, repeats, scores = zip(*found, strict=True)
    names: dict[str, list[str | None] | pa.Array] = {
        c.USER_ID: list(users),
        c.TASK: list(tasks),
        c.ITEM_ID: [f"i{at:03}" for at in range(len(found))],
    }
    numbers = {
        c.LABEL: pa.array(labels, pa.int32()),
        c.IS_REPEAT: pa.array(repeats, pa.bool_()),
        "precise_universal": pa.nulls(len(found), pa.float32()),
        "precise_targeted": pa.nulls(len(found), pa.float32()),
        FEATURE_NAMES[0]: np.array(scores, np.float32),
    }
    lists = CandidateLists.from_arrow(pa.table({**names, **numbers, **nothing}))
    return lists, lists.features_CG[:, 0].astype(np.float64)


def ndcg_of(own: list[Row], k: int, repeat: bool | None) -> float | None:
    """None without a positive; ties in the order of the items."""
    counted = [row for row in own if repeat is None or row[3] == repeat]
    positives = sum(label for _, _, label, _, _ in counted)
    if not positives:
        return None
    order = sorted(counted, key=lambda row: -row[4])
    gain = sum(row[2] / math.log2(place + 2) for place, row in enumerate(order[:k]))
    return gain / sum(1 / math.log2(place + 2) for place in range(min(positives, k)))


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["u", "v", "w"]),
        st.sampled_from(["all", "buy"]),
        st.integers(0, 1),
        st.booleans(),
        st.sampled_from([-1.0, 0.0, 0.5, 2.0]),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(ROWS, st.integers(1, 12), st.sampled_from([None, False, True]))
def test_ndcg_is_the_plain_loop_over_lists_with_a_positive(found: list[Row], k: int, repeat: bool | None) -> None:
    lists, scores = lists_of(found)
    names = sorted({(task, user) for user, task, *_ in found})
    assert list(zip(lists.tasks, lists.users, strict=True)) == names
    expected = [ndcg_of([row for row in found if (row[1], row[0]) == name], k, repeat) for name in names]
    assert lists.has_positive(repeat).tolist() == [value is not None for value in expected]
    values = lists.ndcg(scores, k, repeat)
    assert values.tolist() == pytest.approx([value for value in expected if value is not None])


def test_ndcg_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    lists = candidate_lists(3, lists=20, candidates=25)
    scores = np.random.default_rng(0).normal(size=len(lists.labels_C))
    for k in (1, 5, 10, 25):
        expected = [
            metrics.ndcg_score([lists.labels_C[start:end]], [scores[start:end]], k=k)
            for start, end in zip(lists.starts[:-1], lists.starts[1:], strict=True)
        ]
        assert lists.ndcg(scores, k).tolist() == pytest.approx(expected)


def test_lists_of_which_nothing_was_taken_have_no_ndcg() -> None:
    lists, scores = lists_of([("u", "all", 0, True, 1.0), ("v", "all", 0, False, 1.0)])
    assert lists.ndcg(scores, 5).tolist() == []
    assert lists.has_positive().tolist() == [False, False]
    assert len(lists.where(lists.has_positive())) == 0


def test_the_order_of_the_rows_changes_nothing() -> None:
    table = rows(1, lists=8)
    shuffled = table.take(np.random.default_rng(0).permutation(table.num_rows))
    found, expected = CandidateLists.from_arrow(shuffled), CandidateLists.from_arrow(table)
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), values)


def test_some_lists_are_whole_and_in_order() -> None:
    lists = candidate_lists(2, lists=10, candidates=4)
    mask = np.arange(10) % 3 == 0
    some = lists.where(mask)
    assert some.users.tolist() == lists.users[mask].tolist()
    assert some.starts.tolist() == [0, 4, 8, 12, 16]
    kept = np.repeat(mask, 4)
    for name in ("features_CG", "precise_C2", "labels_C", "is_repeat_C"):
        np.testing.assert_array_equal(getattr(some, name), getattr(lists, name)[kept])


def test_no_rows_are_no_lists() -> None:
    lists = CandidateLists.from_arrow(rows(1, lists=2).slice(0, 0))
    assert len(lists) == 0 and lists.ndcg(np.empty(0), 5).tolist() == []


def test_missing_precise_scores_are_nan_and_missing_columns_are_named() -> None:
    table = rows(1, lists=4)
    missing = candidate_lists(1, lists=4).precise_C2[:, 0]
    assert np.isnan(missing).sum() == table["precise_universal"].null_count > 0
    with pytest.raises(SchemaError, match="user_first_age"):
        CandidateLists.from_arrow(table.drop_columns(["user_first_age"]))
