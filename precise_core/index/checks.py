"""Refusals before FAISS is touched: it accepts NaN vectors and duplicate ids without a word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from precise_core.errors import ModelError


def require_good_items(item_ids: Sequence[str], item_indices_N: np.ndarray, vectors_ND: np.ndarray) -> np.ndarray:
    """The vectors as contiguous float32 [N, D].

    Raises:
        ModelError: No items, lengths differ, an id or a vocabulary row is there twice, a vector is not finite or zero;
            the message has the number of bad items and the first one's id.
    """
    vectors = _as_matrix("item vectors", vectors_ND)
    if not len(item_ids) == len(item_indices_N) == len(vectors):
        raise ModelError(
            f"index: {len(item_ids)} item ids, {len(item_indices_N)} vocabulary rows and {len(vectors)} vectors; "
            "the three must be parallel"
        )
    if len(vectors) == 0:
        raise ModelError("index: there is not a single item vector; run jobs/embed_items.py first")
    ids = np.asarray(item_ids, dtype=object)
    _refuse("item ids are there more than once", _repeated(ids), ids)
    _refuse("vocabulary rows are there more than once", _repeated(np.asarray(item_indices_N)), ids)
    _refuse("vectors hold NaN or infinity", ~np.isfinite(vectors).all(axis=1), ids)
    _refuse("vectors are all zero", ~vectors.any(axis=1), ids)
    return vectors


def require_good_queries(queries_QD: np.ndarray, width: int) -> np.ndarray:
    """The queries as contiguous float32 [Q, D].

    Raises:
        ModelError: Another width than the index's, or a query that is not finite.
    """
    queries = _as_matrix("queries", queries_QD)
    if queries.shape[1] != width:
        raise ModelError(f"queries are {queries.shape[1]} wide, the index {width}: they are of another model")
    bad = ~np.isfinite(queries).all(axis=1)
    if bad.any():
        raise ModelError(f"{bad.sum()} queries hold NaN or infinity, the first is row {int(bad.argmax())}")
    return queries


def _as_matrix(name: str, vectors: np.ndarray) -> np.ndarray:
    try:
        matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    except ValueError as error:
        raise ModelError(f"{name}: not one width for all, or not numbers: {error}") from error
    if matrix.ndim != 2:
        raise ModelError(f"{name}: expected two dimensions [rows, width], found shape {matrix.shape}")
    return matrix


def _repeated(values: np.ndarray) -> np.ndarray:
    """True at every value that an earlier position has already."""
    _, first = np.unique(values, return_index=True)
    repeated = np.ones(len(values), bool)
    repeated[first] = False
    return repeated


def _refuse(problem: str, bad_N: np.ndarray, ids: np.ndarray) -> None:
    if bad_N.any():
        raise ModelError(f"index: {int(bad_N.sum())} {problem}, the first is item {ids[bad_N.argmax()]!r}")
