"""EASE, a linear model with a closed form, as a simple reference.

Shapes: U users, N items, M items that EASE knows, B users of one block.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.linalg import lapack

from precise_core.errors import ConfigError, ModelError
from precise_core.evaluation.references import TrainingLog

_BLOCK_ROWS = 512  # of the Gram matrix at a time


class Ease:
    """EASE: what a user had, predicted from what else the user had (Steck, WWW 2019, https://arxiv.org/abs/1905.03375).

    score(u) = x_u B, x_u = 1 for the items of u; B minimises |X - X B|² + λ |B|² with a diagonal of 0, so that no item
    predicts itself: B_ij = -P_ij / P_jj for i ≠ j, P = (XᵀX + λ)⁻¹.

    Only the ``items`` with most events (equal ones by row) are known; all others score 0. P takes time in proportion to
    items³ and memory to items²: 5,000 items need 200 MB in float64, in which P is solved, and keep 100 MB in float32.

    λ is ``penalty``, in users: it is added to each item's number of users. The paper chooses it on validation data; 250
    is the default of RecBole.

    Raises:
        ConfigError: ``penalty`` is not above 0.
    """

    def __init__(self, log: TrainingLog, *, items: int = 5000, penalty: float = 250.0) -> None:
        if not penalty > 0:
            raise ConfigError(f"penalty {penalty} of EASE must be above 0")
        self._width = log.items
        self._rows_M = frequent_items(log.item_counts(), items)
        self._had_UM = log.matrix()[:, self._rows_M].astype(np.float32)
        self._weights_MM = ease_weights(self._had_UM, penalty)

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        block = np.zeros((len(user_rows_B), self._width), np.float32)
        block[:, self._rows_M] = self._had_UM[user_rows_B] @ self._weights_MM
        return block


def frequent_items(counts_N: np.ndarray, count: int) -> np.ndarray:
    """Rows of the ``count`` items with most events, ascending, of equal ones the first; never one without events."""
    by_count = np.argsort(-counts_N, kind="stable")[:count]
    return np.sort(by_count[counts_N[by_count] > 0])


def ease_weights(had_UM: sparse.csr_matrix, penalty: float) -> np.ndarray:
    """B of ``Ease``, float32 [M, M].

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
