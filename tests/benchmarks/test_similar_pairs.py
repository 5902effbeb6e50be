"""Similar pairs are nearest neighbours, found by brute force; cosines are cosines."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.similar_pairs import pair_cosines, similar_pairs
from precise_core.errors import DataError


def test_every_drawn_item_comes_with_its_nearest_neighbour() -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 5))
    vectors[7] = 0
    pairs = similar_pairs(vectors, 25, seed=1)
    assert len(np.unique(pairs[:, 0])) == 25 and 7 not in pairs
    for item, neighbour in pairs:
        others = [other for other in range(40) if other not in (item, 7)]
        cosines = [vectors[item] @ vectors[o] / np.linalg.norm(vectors[o]) for o in others]
        assert neighbour == others[int(np.argmax(cosines))]
    np.testing.assert_array_equal(similar_pairs(vectors, 25, seed=1), pairs)
    assert len(similar_pairs(vectors, 1000, seed=1)) == 39


def test_cosines_of_pairs() -> None:
    vectors = np.array([[1.0, 0.0], [2.0, 2.0], [-3.0, 0.0], [0.0, 0.0]])
    cosines = pair_cosines(vectors, np.array([[0, 1], [0, 2], [1, 3]]))
    np.testing.assert_allclose(cosines, [np.sqrt(0.5), -1, 0], atol=1e-12)


def test_one_item_has_no_neighbour() -> None:
    with pytest.raises(DataError, match="1 items have a vector"):
        similar_pairs(np.array([[1.0, 2.0], [0.0, 0.0]]), 5, seed=0)
