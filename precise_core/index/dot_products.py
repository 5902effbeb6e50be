"""Dot products of vectors with rows of a matrix, read where they lie. Q queries, K rows of each, N rows, D width."""

from __future__ import annotations

from typing import Any

import faiss as _faiss
import numpy as np

faiss: Any = _faiss  # its own type stubs miss this function


def dot_products(
    queries_QD: np.ndarray, vectors_ND: np.ndarray, rows_QK: np.ndarray, out_QK: np.ndarray | None = None
) -> np.ndarray:
    """Dot products of each query with its rows, float32 [Q, K]; the same whatever the batch.

    FAISS reads the rows where they are: gathering them first reads and writes everything once more.

    Args:
        queries_QD: float32, contiguous.
        vectors_ND: float32, contiguous, in memory or memory-mapped.
        rows_QK: int64, contiguous; the product with row -1 is undefined.
        out_QK: Where they are written; a new array by default.
    """
    products_QK = np.empty(rows_QK.shape, np.float32) if out_QK is None else out_QK
    pointers = [faiss.swig_ptr(array) for array in (products_QK, queries_QD, vectors_ND, rows_QK)]
    faiss.fvec_inner_products_by_idx(*pointers, vectors_ND.shape[1], *rows_QK.shape)
    return products_QK
