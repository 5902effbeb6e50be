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
    return pairs(basket_E, events.item_rows_E, int(basket_E[-1]) + 1 if len(basket_E) else 0, events.items)


def pairs(rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> sparse.csr_matrix:
    """Distinct pairs as a bool matrix with sorted indices."""
    keys = np.unique(rows.astype(np.int64) * width + columns)
    shape = (height, width)
    return sparse.csr_matrix((np.ones(len(keys), bool), (keys // width, keys % width)), shape=shape)


class Cooccurrence:
    """s(i, j) = |R_i and R_j| / (sqrt(|R_i| |R_j|) + shrinkage), R_i = rows of ``had_RN`` with item i."""

    def __init__(self, had_RN: sparse.csr_matrix, shrinkage: float, neighbours: int) -> None:
        self._had, self._neighbours, self._shrinkage = had_RN.astype(np.float32), neighbours, np.float32(shrinkage)
        self._by_item = self._had.T.tocsr()
        self._root_N = np.sqrt(np.diff(self._by_item.indptr)).astype(np.float32)

    @property
    def seeds(self) -> np.ndarray:
        """Rows of the items that anybody had."""
        return np.flatnonzero(self._root_N)

    def near(self, seeds: np.ndarray) -> sparse.csr_matrix:
        """The most similar other items of some items, float32 [seeds, N]; equal similarities are kept by row."""
        starts = range(0, len(seeds), _BLOCK_ROWS)
        blocks = [self._block(seeds[start : start + _BLOCK_ROWS]) for start in starts]
        return sparse.vstack(blocks, format="csr") if blocks else _nothing(0, self._had.shape[1])

    def _block(self, seeds: np.ndarray) -> sparse.csr_matrix:
        common = (self._by_item[seeds] @ self._had).tocsr()
        common.sort_indices()
        seed_of = seeds[entry_rows(common)]
        common.data /= self._root_N[seed_of] * self._root_N[common.indices] + self._shrinkage
        return largest(entries(common, seed_of != common.indices), self._neighbours)


def ease(had_RN: sparse.csr_matrix, items: int, penalty: float, neighbours: int) -> sparse.csr_matrix:
    """EASE (Steck 2019, https://arxiv.org/abs/1905.03375) of the ``items`` most frequent items, float32 [N, N].

    B = I - P diag(1 / diag(P)) with P = (X'X + penalty I)^-1; of each row the ``neighbours`` largest positive weights.
    """
    width = had_RN.shape[1]
    counts = np.bincount(had_RN.indices, minlength=width)
    top = np.sort(np.argsort(-counts, kind="stable")[: min(items, int((counts > 0).sum()))])
    had = had_RN[:, top].astype(np.float32)
    gram = (had.T @ had).toarray()
    gram[np.diag_indices_from(gram)] += np.float32(penalty)
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)
    weights[np.diag_indices_from(weights)] = 0
    kept = largest(sparse.csr_matrix(np.maximum(weights, 0)), neighbours)
    return placed(sparse.csr_matrix((kept.data, top[kept.indices], kept.indptr), shape=(len(top), width)), top)


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


def _nothing(rows: int, items: int) -> sparse.csr_matrix:
    return sparse.csr_matrix((rows, items), dtype=np.float32)
