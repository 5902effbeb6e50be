"""FAISS: index structures by kind, their search, dot products, and checks of items and queries.

FAISS itself accepts NaN vectors and duplicate ids. N items, Q queries, D width, K rows of each query.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import faiss as _faiss
import numpy as np

from precise_core.errors import ModelError
from precise_core.index.config import IndexConfig

faiss: Any = _faiss  # its own type stubs miss most of what is used here

FLAT_BELOW_ITEMS = 20_000  # `auto`: at 92,000 items exact U2I2I recall of 2,500 users takes a minute on one core
COMPRESSED_FROM_ITEMS = 2_000_000  # `auto`: from here on a second copy of all vectors in memory is expensive
_FIRST_PROBES = 32  # lists searched per query, before more turn out to be needed
_POINTS_PER_LIST = 39  # FAISS's own minimum for training one centroid
_CODE_BITS = 4  # what FAISS's fast scan reads; 16 centroids for every few dimensions
_KEPT = 0.98  # of the vectors' second moment; what is dropped must not outweigh the error of the codes, about 0.01
_HNSW_LINKS = 32
_HNSW_SEARCH_WIDTH = 256


def choose_kind(config: IndexConfig, items: int) -> str:
    """`flat`, `ivf`, `ivf_sq`, `ivf_pq` or `hnsw`."""
    if config.kind != "auto":
        return config.kind
    if items < FLAT_BELOW_ITEMS:
        return "flat"
    return "ivf" if items < COMPRESSED_FROM_ITEMS else "ivf_pq"


def build_engine(kind: str, vectors: np.ndarray, config: IndexConfig, seed: int) -> Any:
    """A FAISS index of ``kind`` over the vectors [N, D] by inner product, the same for the same seed."""
    width = vectors.shape[1]
    if kind == "flat":
        engine = faiss.IndexFlatIP(width)
    elif kind in ("ivf", "ivf_sq"):
        engine = _trained(_inverted_lists(kind, width, _lists(config, len(vectors))), vectors, config, seed)
    elif kind == "ivf_pq":
        engine = _compressed(vectors, config, seed)
    else:
        engine = faiss.IndexHNSWFlat(width, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        engine.hnsw.rng = faiss.RandomGenerator(seed)
        engine.hnsw.efSearch = _HNSW_SEARCH_WIDTH
    with threads_of_faiss(1):  # parallel insertion into a graph is not reproducible
        engine.add(vectors)
    return engine


def _inverted_lists(kind: str, width: int, lists: int) -> Any:
    """Inverted lists of whole vectors, or of a byte per dimension."""
    quantizer, metric = faiss.IndexFlatIP(width), faiss.METRIC_INNER_PRODUCT
    if kind == "ivf":
        return faiss.IndexIVFFlat(quantizer, width, lists, metric)
    return faiss.IndexIVFScalarQuantizer(quantizer, width, lists, faiss.ScalarQuantizer.QT_8bit, metric)


def _lists(config: IndexConfig, items: int) -> int:
    lists = config.lists or round(4 * items**0.5)
    return max(1, min(lists, items // _POINTS_PER_LIST))


def _trained(engine: Any, vectors: np.ndarray, config: IndexConfig, seed: int) -> Any:
    engine.cp.seed = seed
    engine.nprobe = min(config.probes or _FIRST_PROBES, engine.nlist)
    engine.train(vectors)
    return engine


def _compressed(vectors: np.ndarray, config: IndexConfig, seed: int) -> Any:
    """Inverted lists of half a byte per principal direction, behind the rotation into these."""
    rotation = _principal_directions(vectors)
    width = rotation.d_out
    lists, metric = _lists(config, len(vectors)), faiss.METRIC_INNER_PRODUCT
    engine = faiss.IndexIVFPQFastScan(faiss.IndexFlatIP(width), width, lists, width, _CODE_BITS, metric)
    engine.pq.cp.seed = seed
    _trained(engine, rotation.apply(vectors), config, seed)
    return faiss.IndexPreTransform(rotation, engine)


def _principal_directions(vectors: np.ndarray) -> Any:
    """The rotation into the fewest directions that keep inner products; unlike PCA it subtracts nothing."""
    moments, directions = np.linalg.eigh(vectors.T @ vectors)  # ascending
    kept = np.cumsum(moments[::-1].astype(np.float64))
    width = min(int(np.searchsorted(kept, _KEPT * kept[-1])) + 1, vectors.shape[1])
    rotation = faiss.LinearTransform(vectors.shape[1], width, False)
    faiss.copy_array_to_vector(np.ascontiguousarray(directions[:, ::-1][:, :width].T, np.float32).ravel(), rotation.A)
    rotation.is_trained = True
    return rotation


def set_probes(engine: Any, probes: int) -> int:
    """Search ``probes`` inverted lists from now on; returns how many there are."""
    lists = faiss.extract_index_ivf(engine)
    lists.nprobe = min(probes, lists.nlist)
    return int(lists.nlist)


def search_more_lists(engine: Any) -> bool:
    """Search twice as many inverted lists from now on; False where there are no more, or none at all."""
    lists = faiss.try_extract_index_ivf(engine)
    if lists is None or lists.nprobe >= lists.nlist:
        return False
    set_probes(engine, 2 * lists.nprobe)
    return True


def is_exact(kind: str) -> bool:
    """Whether the engine ranks by whole vectors; a compressed one must look at more than it returns."""
    return kind not in ("ivf_sq", "ivf_pq")


@contextmanager
def threads_of_faiss(number: int) -> Iterator[None]:
    """FAISS uses ``number`` threads in this thread's calls while the block runs."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def search_parameters(engine: Any, allowed: np.ndarray | None) -> Any:
    """Parameters of a search restricted to the rows where ``allowed`` (bool [N]) is True; None = all rows."""
    if allowed is None:
        return None
    if len(allowed) != engine.ntotal:
        raise ModelError(f"mask of allowed rows has {len(allowed)} entries, the index {engine.ntotal} rows")
    selector = faiss.IDSelectorBitmap(np.packbits(np.asarray(allowed, bool), bitorder="little"))
    if isinstance(engine, faiss.IndexPreTransform):
        inner = faiss.SearchParametersIVF(sel=selector, nprobe=faiss.extract_index_ivf(engine).nprobe)
        return faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(engine, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=engine.nprobe)
    if isinstance(engine, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=engine.hnsw.efSearch)
    return faiss.SearchParameters(sel=selector)


def dot_products(
    queries_QD: np.ndarray, vectors_ND: np.ndarray, rows_QK: np.ndarray, out_QK: np.ndarray | None = None
) -> np.ndarray:
    """Dot products of each query with its rows, float32 [Q, K]; the same whatever the batch.

    FAISS reads the rows where they are: gathering them first reads and writes everything once more. Vectors are
    contiguous float32, in memory or memory-mapped, rows contiguous int64; the product with row -1 is undefined.
    """
    products_QK = np.empty(rows_QK.shape, np.float32) if out_QK is None else out_QK
    pointers = [faiss.swig_ptr(array) for array in (products_QK, queries_QD, vectors_ND, rows_QK)]
    faiss.fvec_inner_products_by_idx(*pointers, vectors_ND.shape[1], *rows_QK.shape)
    return products_QK


def exact_scores(queries_QD: np.ndarray, vectors_ND: np.ndarray, rows_QK: np.ndarray) -> np.ndarray:
    """As ``dot_products``; -inf at row -1."""
    scores_QK = dot_products(queries_QD, vectors_ND, rows_QK)
    scores_QK[rows_QK < 0] = -np.inf
    return scores_QK


def require_good_items(item_ids: Sequence[str], item_indices_N: np.ndarray, vectors_ND: np.ndarray) -> np.ndarray:
    """The vectors as contiguous float32 [N, D]; refuses repeated ids or vocabulary rows, NaN and zero vectors."""
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
    """The queries as contiguous, finite float32 [Q, D]; D is the width of the index."""
    queries = _as_matrix("queries", queries_QD)
    if queries.shape[1] != width:
        raise ModelError(f"queries are {queries.shape[1]} wide, the index {width}: they are of another model")
    bad = ~np.isfinite(queries).all(axis=1)
    if bad.any():
        raise ModelError(f"{bad.sum()} queries hold NaN or infinity, the first is row {int(bad.argmax())}")
    return queries


def require_good_seed_queries(queries_ND: np.ndarray, vectors_ND: np.ndarray) -> np.ndarray:
    """The queries of the index's items as contiguous, finite float32, one of the same width for each vector."""
    queries = require_good_queries(queries_ND, vectors_ND.shape[1])
    if len(queries) != len(vectors_ND):
        raise ModelError(f"index: {len(queries)} seed queries for {len(vectors_ND)} vectors; the two must be parallel")
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
