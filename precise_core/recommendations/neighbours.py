"""Item to item: what users had together, as sparse matrices of the most similar items.

Shapes: R users (or baskets) x N vocabulary rows; a row of a result is a seed item.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from precise_core.recommendations.history import UserEvents

_BLOCK_ROWS = 512  # rows of similarities in full at a time


def baskets(events: UserEvents) -> sparse.csr_matrix:
    """What users had at one instant, bool [R, N]; of one item alone too, which makes it less like any other."""
    starts = (np.diff(events.user_rows_E, prepend=-1) != 0) | (np.diff(events.ages_E, prepend=-1.0) != 0)
    basket_E = np.cumsum(starts) - 1
    return pair_matrix(basket_E, events.item_rows_E, int(basket_E[-1]) + 1 if len(basket_E) else 0, events.items)


def pair_matrix(rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> sparse.csr_matrix:
    """Distinct pairs, of a user and an item say, as a bool CSR matrix [height, width] with sorted indices."""
    keys = np.unique(np.asarray(rows, np.int64) * width + np.asarray(columns, np.int64))
    shape = (height, width)
    return sparse.csr_matrix((np.ones(len(keys), bool), (keys // width, keys % width)), shape=shape)


class Cooccurrence:
    """s(i, j) = |R_i and R_j| / (sqrt(|R_i| |R_j|) + shrinkage), R_i = rows of ``had_RN`` with item i.

    Args:
        with_itself: An item is among its own neighbours.
        allowed_N: Mask of the items that may be neighbours; all by default.
    """

    def __init__(
        self,
        had_RN: sparse.csr_matrix,
        shrinkage: float,
        neighbours: int,
        *,
        with_itself: bool = False,
        allowed_N: np.ndarray | None = None,
    ) -> None:
        self._with_itself, self._allowed_N = with_itself, allowed_N
        self._had, self._neighbours, self._shrinkage = had_RN.astype(np.float32), neighbours, np.float32(shrinkage)
        self._by_item = self._had.T.tocsr()
        self._root_N = np.sqrt(np.diff(self._by_item.indptr)).astype(np.float32)

    @property
    def seeds(self) -> np.ndarray:
        """Rows of the items that anybody had."""
        return np.flatnonzero(self._root_N)

    def near(self, seeds: np.ndarray) -> sparse.csr_matrix:
        """The most similar items of some items, float32 [seeds, N]; equal similarities are kept by row."""
        starts = range(0, len(seeds), _BLOCK_ROWS)
        blocks = [self._block(seeds[start : start + _BLOCK_ROWS]) for start in starts]
        return (
            sparse.vstack(blocks, format="csr")
            if blocks
            else sparse.csr_matrix((0, self._had.shape[1]), dtype=np.float32)
        )

    def _block(self, seeds: np.ndarray) -> sparse.csr_matrix:
        common = (self._by_item[seeds] @ self._had).tocsr()
        common.sort_indices()
        seed_of = seeds[entry_rows(common)]
        common.data /= self._root_N[seed_of] * self._root_N[common.indices] + self._shrinkage
        others = common if self._with_itself else entries(common, seed_of != common.indices)
        if self._allowed_N is not None:
            others = entries(others, self._allowed_N[others.indices])
        return largest(others, self._neighbours)


def largest(matrix: sparse.csr_matrix, count: int) -> sparse.csr_matrix:
    """The ``count`` largest entries of every row; of equal ones those that come first."""
    kept = np.ones(matrix.nnz, bool)
    for start, end in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        if end - start > count:
            values = matrix.data[start:end]
            cut = np.partition(values, -count)[-count] if count else np.inf
            above = values > cut
            ties = np.flatnonzero(values == cut)[: count - int(above.sum())]
            above[ties] = True
            kept[start:end] = above
    return entries(matrix, kept)


def entries(matrix: sparse.csr_matrix, kept: np.ndarray) -> sparse.csr_matrix:
    """The matrix with some of its stored entries alone."""
    before = np.concatenate([[0], np.cumsum(kept)])
    return sparse.csr_matrix((matrix.data[kept], matrix.indices[kept], before[matrix.indptr]), shape=matrix.shape)


def entry_rows(matrix: sparse.csr_matrix) -> np.ndarray:
    """Row of every stored entry, in their order."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def placed(matrix: sparse.csr_matrix, rows: np.ndarray) -> sparse.csr_matrix:
    """A matrix [N, N] whose ``rows`` (ascending) are those of ``matrix`` [rows, N], all others empty."""
    items = matrix.shape[1]
    lengths_N = np.zeros(items, np.int64)
    lengths_N[rows] = np.diff(matrix.indptr)
    indptr = np.concatenate([[0], np.cumsum(lengths_N)])
    return sparse.csr_matrix((matrix.data, matrix.indices, indptr), shape=(items, items))
