"""FAISS index structures by kind: flat (exact), inverted lists with and without compressed vectors, graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss as _faiss
import numpy as np

from precise_core.errors import ModelError
from precise_core.index.config import IndexConfig
from precise_core.index.dot_products import dot_products

faiss: Any = _faiss  # its own type stubs miss most of what is used here

FLAT_BELOW_ITEMS = 20_000  # `auto`: at 92,000 items exact U2I2I recall of 2,500 users takes a minute on one core
COMPRESSED_FROM_ITEMS = 2_000_000  # `auto`: from here on a second copy of all vectors in memory is dear
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
    """Search so many inverted lists from now on; returns how many there are."""
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


def exact_scores(queries_QD: np.ndarray, vectors_ND: np.ndarray, rows_QK: np.ndarray) -> np.ndarray:
    """Inner products of each query with its rows, float32 [Q, K]; -inf at row -1. The same whatever the batch."""
    scores_QK = dot_products(queries_QD, vectors_ND, rows_QK)
    scores_QK[rows_QK < 0] = -np.inf
    return scores_QK


def search_parameters(engine: Any, allowed: np.ndarray | None) -> Any:
    """What narrows one search to the rows where ``allowed`` (bool [N]) is True; None = all rows.

    Raises:
        ModelError: The mask has another length than the index.
    """
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
