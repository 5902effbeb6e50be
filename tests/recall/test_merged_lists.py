"""Merging sources that take turns against plain loops, and what each source adds to the others."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.evaluation.groups import ALL
from precise_core.evaluation.overlap import OVERLAP, UNIQUE_HIT_RATE, source_figures
from precise_core.evaluation.protocol import EvaluationTask
from precise_core.experiments.merged_lists import merged_lists, merged_ranks
from precise_core.recommendations.neighbours import pair_matrix

Lists = list[list[int]]  # items of one user by source, best first


def merge(lists: Lists, k: int) -> list[tuple[int, int]]:
    """(source, item) of one user's merged list."""
    sources = np.repeat(np.arange(len(lists)), [len(items) for items in lists])
    items = np.array([item for of_source in lists for item in of_source], np.int64)
    ranks = np.array([rank for of_source in lists for rank in range(1, len(of_source) + 1)], np.int64)
    found = merged_ranks(np.zeros(len(items), np.int64), items, ranks, sources, k)
    order = np.argsort(found)[(found == 0).sum() :]
    assert sorted(found[found > 0]) == list(range(1, (found > 0).sum() + 1))
    return [(int(sources[at]), int(items[at])) for at in order]


def by_loops(lists: Lists, k: int) -> list[tuple[int, int]]:
    owner: dict[int, tuple[int, int]] = {}
    for source, items in enumerate(lists):
        for rank, item in enumerate(items, start=1):
            owner[item] = min(owner.get(item, (100, 0)), (rank, source))
    claims = []
    for source, items in enumerate(lists):
        own = [item for item in items if owner[item][1] == source]
        claims += [(place, source, item) for place, item in enumerate(own, start=1)]
    return [(source, item) for _, source, item in sorted(claims)][:k]


distinct = st.lists(st.integers(0, 12), max_size=10, unique=True)


@given(lists=st.lists(distinct, min_size=1, max_size=3), k=st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_merging_equals_plain_loops(lists: Lists, k: int) -> None:
    merged = merge(lists, k)
    assert merged == by_loops(lists, k)
    items = [item for _, item in merged]
    assert len(set(items)) == len(items)
    available = {item for of_source in lists for item in of_source}
    assert len(items) == min(k, len(available))  # no place stays empty while anybody has an item


def test_a_source_that_ends_leaves_its_places_to_others() -> None:
    first, second = list(range(10)), list(range(100, 103))
    assert [source for source, _ in merge([first, second], 8)] == [0, 1, 0, 1, 0, 1, 0, 0]


def test_users_are_merged_each_by_themselves() -> None:
    lists = [np.array([[1, 2, -1], [5, -1, -1]]), np.array([[2, 3, -1], [-1, -1, -1]])]
    np.testing.assert_array_equal(merged_lists(lists), [[1, 2, 3], [5, -1, -1]])


@given(seed=st.integers(0, 500), user_filter=st.sampled_from(["all", "new"]))
@settings(max_examples=40, deadline=None)
def test_what_a_source_adds_equals_plain_loops(seed: int, user_filter: str) -> None:
    rng = np.random.default_rng(seed)
    users, items, k = 5, 12, 4
    truth, history = rng.random((users, items)) < 0.3, rng.random((users, items)) < 0.2
    truth[0, 0], history[0, 0] = True, False
    lists = {name: np.stack([rng.permutation(items)[:k] for _ in range(users)]) for name in ("a", "b", "c")}
    lists["a"][1, 2:] = -1
    lists["b"][2] = -1
    matrices = [pair_matrix(*found.nonzero(), users, items) for found in (truth, history)]
    task = EvaluationTask(
        "click",
        datetime(2024, 1, 1, tzinfo=UTC),
        *matrices,
        np.ones(items, bool),
        {ALL: np.ones(items, bool)},
        (2, 4),
        100,
    )
    rows = source_figures(lists, task, user_filter=user_filter, model_version="m")
    found = {(row["system"], row["metric"], row["k"]): row["value"] for row in rows}
    wanted = truth & ~history if user_filter == "new" else truth
    for name in lists:
        for cut in (2, 4):
            overlaps, unique = [], []
            for user in np.flatnonzero(truth.any(axis=1)):
                own = {item for item in lists[name][user, :cut] if item >= 0}
                others = {item for other in lists if other != name for item in lists[other][user, :cut]}
                if own:
                    overlaps.append(len(own & others) / len(own))
                if wanted[user].any():
                    unique.append(any(wanted[user, item] for item in own - others))
            assert found[name, OVERLAP, cut] == pytest.approx(np.mean(overlaps))
            assert found[name, UNIQUE_HIT_RATE, cut] == pytest.approx(np.mean(unique))
