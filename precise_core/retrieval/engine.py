"""FAISS index structures by kind: flat (exact), inverted lists, graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss as _faiss
import numpy as np

from precise_core.errors import ModelError
from precise_core.retrieval.config import IndexConfig

faiss: Any = _faiss  # its own type stubs miss most of what is used here

FLAT_BELOW_ITEMS = 20_000  # `auto`: at 92,000 items exact U2I2I recall of 2,500 users takes a minute on one core
_POINTS_PER_LIST = 39  # FAISS's own minimum for training one centroid
_HNSW_LINKS = 32
_HNSW_SEARCH_WIDTH = 256


def choose_kind(config: IndexConfig, items: int) -> str:
    """`flat`, `ivf` or `hnsw`."""
    if config.kind != "auto":
        return config.kind
    return "flat" if items < FLAT_BELOW_ITEMS else "ivf"


def build_engine(kind: str, vectors: np.ndarray, config: IndexConfig, seed: int) -> Any:
    """A FAISS index of ``kind`` over the vectors [N, D] by inner product, the same for the same seed."""
    width = vectors.shape[1]
    if kind == "flat":
        engine = faiss.IndexFlatIP(width)
    elif kind == "ivf":
        engine = _train_ivf(vectors, config, seed)
    else:
        engine = faiss.IndexHNSWFlat(width, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        engine.hnsw.rng = faiss.RandomGenerator(seed)
        engine.hnsw.efSearch = _HNSW_SEARCH_WIDTH
    with _one_thread():  # parallel insertion into a graph is not reproducible
        engine.add(vectors)
    return engine


def _train_ivf(vectors: np.ndarray, config: IndexConfig, seed: int) -> Any:
    lists = config.lists or round(4 * len(vectors) ** 0.5)
    lists = max(1, min(lists, len(vectors) // _POINTS_PER_LIST))
    quantizer = faiss.IndexFlatIP(vectors.shape[1])
    engine = faiss.IndexIVFFlat(quantizer, vectors.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    engine.cp.seed = seed
    engine.nprobe = min(config.probes, lists)
    engine.train(vectors)
    return engine


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


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
    if isinstance(engine, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=engine.nprobe)
    if isinstance(engine, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=engine.hnsw.efSearch)
    return faiss.SearchParameters(sel=selector)
