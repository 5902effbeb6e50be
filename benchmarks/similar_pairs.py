"""Fig. 4b (section IV-E2): how alike the id vectors of similar items are.

N items, D width, P pairs.
"""

from __future__ import annotations

import numpy as np

from precise_core.errors import DataError

_ROWS_PER_BLOCK = 2048


def similar_pairs(item_vectors_ND: np.ndarray, pairs: int, seed: int) -> np.ndarray:
    """Random items, each with its nearest neighbour by cosine of the whole item vectors, int64 [P, 2].

    Args:
        item_vectors_ND: One row per item; rows of zeros are nobody's neighbour.
        pairs: How many items to draw, without repetition; all where there are fewer.
        seed: Of the draw.

    Raises:
        DataError: There are fewer than two items.
    """
    unit_ND = _unit(item_vectors_ND)
    usable = np.flatnonzero(unit_ND.any(axis=1))
    if len(usable) < 2:
        raise DataError(f"similar pairs: {len(usable)} items have a vector, at least 2 are needed")
    drawn = np.random.default_rng(seed).choice(usable, min(pairs, len(usable)), replace=False)
    nearest = np.empty(len(drawn), np.int64)
    for start in range(0, len(drawn), _ROWS_PER_BLOCK):
        rows = drawn[start : start + _ROWS_PER_BLOCK]
        cosines = unit_ND[rows] @ unit_ND[usable].T
        cosines[rows[:, None] == usable] = -np.inf
        nearest[start : start + len(rows)] = usable[cosines.argmax(axis=1)]
    return np.stack([drawn, nearest], axis=1)


def pair_cosines(vectors_ND: np.ndarray, pairs_P2: np.ndarray) -> np.ndarray:
    """Cosine of the two vectors of each pair, float64 [P]; 0 where one of them is zero."""
    unit_ND = _unit(vectors_ND)
    return (unit_ND[pairs_P2[:, 0]] * unit_ND[pairs_P2[:, 1]]).sum(axis=1)


def _unit(vectors_ND: np.ndarray) -> np.ndarray:
    vectors_ND = np.asarray(vectors_ND, np.float64)
    return vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)
