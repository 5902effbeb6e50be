"""Item to item similarities, against dense loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from precise_core.recommendations.ease import ease_neighbours
from precise_core.recommendations.neighbours import Cooccurrence, baskets, largest, pair_matrix, placed
from tests.recommendations.world import DAY, INSTANT, block

_HAD = arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 7)))


@settings(max_examples=80, deadline=None)
@given(_HAD, st.sampled_from([0.0, 1.0, 10.0]), st.integers(1, 8))
def test_cosine_with_shrinkage_is_the_plain_loop(had: np.ndarray, shrinkage: float, neighbours: int) -> None:
    together = Cooccurrence(sparse.csr_matrix(had), shrinkage, neighbours)
    items = had.shape[1]
    assert together.seeds.tolist() == [item for item in range(items) if had[:, item].any()]
    near = placed(together.near(together.seeds), together.seeds).toarray()
    assert near.shape == (items, items)
    for seed in range(items):
        scores = {}
        for other in range(items):
            common = sum(bool(row[seed] and row[other]) for row in had)
            if common and other != seed:
                scores[other] = common / (np.sqrt(had[:, seed].sum() * had[:, other].sum()) + shrinkage)
        kept = sorted(scores, key=lambda other: (-round(scores[other], 6), other))[:neighbours]
        assert np.flatnonzero(near[seed]).tolist() == sorted(kept)
        for other in kept:
            assert near[seed, other] == pytest.approx(scores[other], rel=1e-5)


def test_what_may_not_be_recommended_is_nobodys_neighbour_and_takes_no_place() -> None:
    random = np.random.default_rng(4)
    had, allowed = sparse.csr_matrix(random.random((60, 8)) < 0.5), np.arange(8) % 3 != 1

    def of(kind: str, count: int, mask: np.ndarray | None) -> np.ndarray:
        if kind == "ease":
            return ease_neighbours(had, 8, 1.0, count, mask).toarray()
        return Cooccurrence(had, 1.0, count, allowed_N=mask).near(np.arange(8)).toarray()

    for kind in ("ease", "cosine"):
        found, whole = of(kind, 2, allowed), of(kind, 8, None) * allowed
        assert found[~allowed].any(), "a withdrawn item is still looked up"
        for row in range(8):
            best = np.sort(whole[row])[::-1][:2]
            np.testing.assert_allclose(np.sort(found[row])[::-1][:2], best, rtol=1e-6)


def test_seeds_in_blocks_are_the_seeds_at_once() -> None:
    had = sparse.random(60, 1200, 0.05, "csr", random_state=1).astype(bool)
    together = Cooccurrence(had, 1.0, 5)
    seeds = together.seeds
    whole = together.near(seeds)
    assert len(seeds) > 1024 and whole.shape == (len(seeds), 1200)
    for row in (0, 511, 512, len(seeds) - 1):
        assert (whole[row] != together.near(seeds[[row]])).nnz == 0


def test_nobody_had_anything() -> None:
    nothing = pair_matrix(np.array([], int), np.array([], int), 0, 5)
    together = Cooccurrence(nothing, 1.0, 5)
    assert together.near(together.seeds).shape == (0, 5)
    assert placed(together.near(together.seeds), together.seeds).nnz == 0
    assert ease_neighbours(nothing, 10, 1.0, 5).shape == (5, 5)
    assert baskets(block({"u": []}).events).shape[0] == 0


@settings(max_examples=60, deadline=None)
@given(_HAD, st.sampled_from([0.5, 5.0, 200.0]))
def test_ease_solves_the_ridge_problem_with_a_zero_diagonal(had: np.ndarray, penalty: float) -> None:
    """Column j of the weights is the ridge regression of item j on all others; negative weights are left out."""
    found = ease_neighbours(sparse.csr_matrix(had), 100, penalty, 100).toarray()
    x = had.astype(np.float64)
    for item in range(had.shape[1]):
        others = np.array([other for other in range(had.shape[1]) if other != item], int)
        gram = x[:, others].T @ x[:, others] + penalty * np.eye(len(others))
        weights = np.linalg.solve(gram, x[:, others].T @ x[:, item])
        assert found[item, item] == 0
        np.testing.assert_allclose(found[others, item], np.maximum(weights, 0), atol=1e-4)


def test_ease_knows_the_most_frequent_items_alone_and_keeps_their_best() -> None:
    random = np.random.default_rng(0)
    had = random.random((50, 9)) < np.linspace(0.1, 0.9, 9)
    found = ease_neighbours(sparse.csr_matrix(had), 4, 1.0, 2).toarray()
    top = np.sort(np.argsort(-had.sum(axis=0), kind="stable")[:4])
    whole = ease_neighbours(sparse.csr_matrix(had[:, top]), 4, 1.0, 4).toarray()
    assert set(np.flatnonzero(found.any(axis=1))) <= set(top)
    for place, item in enumerate(top):
        best = sorted(range(4), key=lambda other: -whole[place, other])[:2]
        expected = {int(top[other]) for other in best if whole[place, other] > 0}
        assert set(np.flatnonzero(found[item]).tolist()) == expected


@settings(max_examples=80, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(0, 5), st.integers(1, 8)), elements=st.integers(0, 3)), st.integers(0, 9)
)
def test_the_largest_of_a_row_and_of_equal_ones_the_first(dense: np.ndarray, count: int) -> None:
    found = largest(sparse.csr_matrix(dense), count).toarray()
    for row, values in enumerate(dense):
        kept = sorted((at for at in range(len(values)) if values[at]), key=lambda at: (-values[at], at))[:count]
        expected = [value if at in kept else 0 for at, value in enumerate(values)]
        assert found[row].tolist() == expected


def test_a_basket_is_what_one_user_had_at_one_instant() -> None:
    histories = {
        "u": [(2, INSTANT - DAY, 1), (3, INSTANT - DAY, 1), (4, INSTANT - DAY + 1, 1)],
        "nobody": [],
        "v": [(5, INSTANT - DAY + 1, 1), (5, INSTANT - 1, 1), (6, INSTANT - 1, 1), (6, INSTANT - 1, 1)],
    }
    found = baskets(block(histories).events).toarray()
    assert [np.flatnonzero(row).tolist() for row in found] == [[2, 3], [4], [5], [5, 6]]
