"""EASE (Steck, WWW 2019, https://arxiv.org/abs/1905.03375): the weights, and the neighbours that they make.

Shapes: U users, N items, M items that EASE knows.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.linalg import lapack

from precise_core.errors import ModelError
from precise_core.recommendations.neighbours import largest, placed

_BLOCK_ROWS = 512  # of the Gram matrix at a time


def ease_neighbours(
    had_UN: sparse.csr_matrix, items: int, penalty: float, neighbours: int, allowed_N: np.ndarray | None = None
) -> sparse.csr_matrix:
    """Of each of the ``items`` most frequent items the ``neighbours`` largest positive weights, float32 [N, N].

    ``allowed_N`` is the mask of the items that may be neighbours; all by default.
    """
    width = had_UN.shape[1]
    rows_M = frequent_items(np.bincount(had_UN.indices, minlength=width), items)
    weights_MM = ease_weights(had_UN[:, rows_M].astype(np.float32), penalty)
    if allowed_N is not None:
        weights_MM[:, ~allowed_N[rows_M]] = 0
    kept = largest(sparse.csr_matrix(np.maximum(weights_MM, 0)), neighbours)
    return placed(sparse.csr_matrix((kept.data, rows_M[kept.indices], kept.indptr), shape=(len(rows_M), width)), rows_M)


def frequent_items(counts_N: np.ndarray, count: int) -> np.ndarray:
    """Rows of the ``count`` items with most events, ascending, of equal ones the first; never one without events."""
    by_count = np.argsort(-counts_N, kind="stable")[:count]
    return np.sort(by_count[counts_N[by_count] > 0])


def ease_weights(had_UM: sparse.csr_matrix, penalty: float) -> np.ndarray:
    """B, float32 [M, M]: B_ij = -P_ij / P_jj for i ≠ j and 0 for i = j, P = (XᵀX + penalty)⁻¹.

    Raises:
        ModelError: The Gram matrix is singular in float64, because ``penalty`` is too small for it.
    """
    width = had_UM.shape[1]
    if not width:
        return np.zeros((0, 0), np.float32)
    factor_MM, failed = lapack.dpotrf(_gram(had_UM, penalty), lower=1, overwrite_a=1)
    if failed:
        raise ModelError(f"EASE: penalty {penalty} is too small, XᵀX + penalty is singular in float64")
    inverse_MM, _ = lapack.dpotri(factor_MM, lower=1, overwrite_c=1)  # its lower triangle
    diagonal_M = inverse_MM.diagonal().copy()
    weights_MM = inverse_MM.astype(np.float32)
    weights_MM += weights_MM.T
    weights_MM /= -diagonal_M.astype(np.float32)
    np.fill_diagonal(weights_MM, 0)
    return weights_MM


def _gram(had_UM: sparse.csr_matrix, penalty: float) -> np.ndarray:
    """XᵀX + λ, float64 [M, M], in the order of LAPACK, so that it is solved in place."""
    had_by_item, width = had_UM.T.tocsr(), had_UM.shape[1]
    gram_MM = np.empty((width, width), order="F")
    for start in range(0, width, _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        gram_MM[:, block] = (had_by_item[block] @ had_UM).toarray().T  # it is symmetric
    gram_MM[np.diag_indices(width)] += penalty
    return gram_MM
