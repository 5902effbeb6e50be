"""The best items of a user are those that sorting all scores finds."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.peers.top_items import top_items


@settings(max_examples=60, deadline=None)
@given(
    users=st.integers(0, 150),
    items=st.integers(0, 700),
    k=st.integers(1, 100),
    seed=st.integers(0, 9),
    ties=st.booleans(),
)
def test_the_best_items_are_those_of_a_full_sort(users: int, items: int, k: int, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    users_UD = rng.normal(size=(users, 3)).astype(np.float32)
    items_ND = rng.normal(size=(items, 3)).astype(np.float32) - 5  # mostly below 0, the score of nothing
    if ties:
        items_ND[::2] = 1.0
    found_UK = top_items(users_UD, items_ND, k)
    assert found_UK.shape == (users, min(k, items)) and found_UK.dtype == np.int64
    scores_UN = users_UD @ items_ND.T
    expected_UK = -np.sort(-scores_UN, axis=1)[:, :k]
    np.testing.assert_allclose(np.take_along_axis(scores_UN, found_UK, axis=1), expected_UK, rtol=1e-4, atol=1e-5)
    assert all(len(set(row)) == len(row) for row in found_UK.tolist())
