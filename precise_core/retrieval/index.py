"""The vector index over item embeddings (section VI-A).

Shapes: N items, Q queries, D width, k results per query. A *row* is the position of an item in the index.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from precise_core.artefacts import atomic_folder, verify_sums, write_sums
from precise_core.errors import CheckpointError, ModelError, VersionMixError
from precise_core.retrieval.checks import require_good_items, require_good_queries
from precise_core.retrieval.config import IndexConfig
from precise_core.retrieval.engine import build_engine, choose_kind, faiss, search_parameters
from schemas import columns as c

CHECK_K = 100  # recall is measured over as many results as recall jobs usually ask for
_TIE_SLACK = 8  # results fetched beyond k, so that a tie at the cut can be seen
_BLOCK_FLOATS = 16_000_000

_INDEX_FILE, _ITEMS_FILE, _VECTORS_FILE, _MANIFEST_FILE = "index.faiss", "items.parquet", "vectors.npy", "manifest.json"


class VectorIndex:
    """Item vectors of one checkpoint, searchable by inner product.

    Attributes:
        item_ids: External keys, one per row.
        item_indices_N: Vocabulary rows (int32), one per row of the index.
        vectors_ND: The vectors (float32), one per row; the exact scores are computed from them.
        model_version: The checkpoint that made the vectors.
        kind: `flat`, `ivf` or `hnsw`.
        recall: Share of the exact top results that the index finds, as measured when it was built.
    """

    def __init__(
        self,
        engine: Any,
        item_ids: Sequence[str],
        item_indices_N: np.ndarray,
        vectors_ND: np.ndarray,
        *,
        model_version: str,
        kind: str,
        recall: float = 1.0,
    ) -> None:
        self._engine = engine
        self.item_ids = list(item_ids)
        self.item_indices_N = item_indices_N
        self.vectors_ND = vectors_ND
        self.model_version = model_version
        self.kind = kind
        self.recall = recall

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def width(self) -> int:
        return int(self.vectors_ND.shape[1])

    def search(
        self, queries_QD: np.ndarray, k: int, allowed_rows_N: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k items with the largest inner product per query.

        Args:
            queries_QD: Finite float vectors of the index's width and model version.
            k: Results per query.
            allowed_rows_N: Boolean mask of the rows that may be returned; all where None.

        Returns:
            ``item_rows_Qk`` (int64) and ``scores_Qk`` (float32), best first, equal scores by row. Where fewer than k
            items are found, the rest is row -1 with score -inf. The score of a pair does not depend on the batch.

        Raises:
            ModelError: The queries have another width or are not finite, or k is not positive.
        """
        if k < 1:
            raise ModelError(f"search for k = {k}: at least 1 is needed")
        queries = require_good_queries(queries_QD, self.width)
        block = max(1, _BLOCK_FLOATS // ((k + _TIE_SLACK) * self.width))
        parts = [
            self._search_block(queries[start : start + block], k, allowed_rows_N)
            for start in range(0, len(queries), block)
        ]
        if not parts:
            return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
        return np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts])

    def exact_search(self, queries_QD: np.ndarray, k: int) -> np.ndarray:
        """Rows of the exact top k, for measuring; rows -1 where there are fewer items."""
        exact = faiss.IndexFlatIP(self.width)
        exact.add(np.ascontiguousarray(self.vectors_ND))
        return exact.search(require_good_queries(queries_QD, self.width), k)[1]

    def save(self, folder: str | Path) -> None:
        """Write the index as a folder, whole or not at all; the folder's files are listed with their SHA-256."""
        with atomic_folder(folder) as target:
            faiss.write_index(self._engine, str(target / _INDEX_FILE))
            np.save(target / _VECTORS_FILE, self.vectors_ND)
            items = pa.table({c.ITEM_ID: pa.array(self.item_ids, pa.string()), c.ITEM_INDEX: self.item_indices_N})
            pq.write_table(items, target / _ITEMS_FILE)
            manifest = {
                "model_version": self.model_version,
                "kind": self.kind,
                "items": len(self),
                "width": self.width,
                "recall": self.recall,
            }
            (target / _MANIFEST_FILE).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", "utf-8")
            write_sums(target)

    @classmethod
    def open(cls, folder: str | Path, model_version: str) -> VectorIndex:
        """Open what ``save`` wrote; the vectors are memory-mapped, so processes on one machine share them.

        Raises:
            CheckpointError: The folder is incomplete or was changed on disk.
            VersionMixError: The index holds vectors of another checkpoint than ``model_version``.
        """
        root = Path(folder)
        verify_sums(root)
        manifest = json.loads((root / _MANIFEST_FILE).read_text(encoding="utf-8"))
        if manifest["model_version"] != model_version:
            raise VersionMixError(
                f"index {root}: its vectors are of {manifest['model_version']!r}, the query's of {model_version!r}; "
                "build the index from the same checkpoint"
            )
        engine = faiss.read_index(str(root / _INDEX_FILE))
        items = pq.read_table(root / _ITEMS_FILE)
        if not engine.ntotal == items.num_rows == manifest["items"]:
            raise CheckpointError(f"index {root}: {engine.ntotal} vectors, but {items.num_rows} item ids")
        return cls(
            engine,
            items[c.ITEM_ID].to_pylist(),
            items[c.ITEM_INDEX].to_numpy(),
            np.load(root / _VECTORS_FILE, mmap_mode="r", allow_pickle=False),
            model_version=model_version,
            kind=manifest["kind"],
            recall=manifest["recall"],
        )

    def _search_block(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        parameters = search_parameters(self._engine, allowed)
        fetched = min(k + _TIE_SLACK, len(self))
        while True:
            scores, rows = self._engine.search(queries, fetched, params=parameters)
            cut = scores[:, min(k, fetched) - 1]
            tie_runs_on = (scores[:, -1] == cut) & (rows[:, -1] >= 0)
            if fetched == len(self) or not tie_runs_on.any():
                break
            fetched = min(fetched * 4, len(self))
        return _sort_and_cut(rows, self._exact_scores(queries, rows), k)

    def _exact_scores(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        # FAISS's sums depend on the size of the batch in the last bit; these do not.
        scores = np.empty(rows.shape, np.float32)
        step = max(1, _BLOCK_FLOATS // (rows.shape[1] * self.width))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            scores[part] = np.einsum("qd,qkd->qk", queries[part], self.vectors_ND[np.maximum(rows[part], 0)])
        scores[rows < 0] = -np.inf
        return scores


def build_index(
    item_ids: Sequence[str],
    item_indices_N: np.ndarray,
    vectors_ND: np.ndarray,
    *,
    model_version: str,
    config: IndexConfig,
    seed: int,
    queries_QD: np.ndarray | None = None,
) -> VectorIndex:
    """Build an index and measure it against exact search; an index below the gate is never returned.

    Args:
        item_ids: External keys; the order is the order of ties, so pass rows sorted by vocabulary row.
        item_indices_N: Vocabulary rows of the same items.
        vectors_ND: Their vectors (float32).
        model_version: The checkpoint of the vectors.
        config: Kind of index and the gate.
        seed: Of k-means, of HNSW's levels and of the choice of queries that are measured.
        queries_QD: User vectors to measure with; the items' own vectors where None.

    Raises:
        ModelError: A vector is not finite or zero, an id is there twice, lengths differ, or recall is too low.
    """
    vectors = require_good_items(item_ids, item_indices_N, vectors_ND)
    kind = choose_kind(config, len(vectors))
    index = VectorIndex(
        build_engine(kind, vectors, config, seed),
        item_ids,
        np.asarray(item_indices_N, np.int32),
        vectors,
        model_version=model_version,
        kind=kind,
    )
    index.recall = measure_recall(index, _sample(vectors if queries_QD is None else queries_QD, config, seed), CHECK_K)
    if index.recall < config.min_recall:
        raise ModelError(
            f"index {kind} over {len(index)} items of {model_version}: recall {index.recall:.4f} against exact search "
            f"is below index.min_recall {config.min_recall}; raise index.probes or use kind flat"
        )
    return index


def measure_recall(index: VectorIndex, queries_QD: np.ndarray, k: int) -> float:
    """Share of the exact top-k items that ``index`` returns, mean over the queries; 1.0 where there are none."""
    k = min(k, len(index))
    if len(queries_QD) == 0:
        return 1.0
    found, _ = index.search(queries_QD, k)
    exact = index.exact_search(queries_QD, k)
    # A tie at the cut may be resolved either way: an item as good as the last exact one counts as found.
    last = index._exact_scores(np.asarray(queries_QD, np.float32), exact)[:, -1:]
    scores = index._exact_scores(np.asarray(queries_QD, np.float32), found)
    tolerance = 1e-6 * np.maximum(1.0, np.abs(last))
    return float(np.mean(scores >= last - tolerance))


def _sample(queries_QD: np.ndarray, config: IndexConfig, seed: int) -> np.ndarray:
    if len(queries_QD) <= config.check_queries:
        return queries_QD
    chosen = np.random.default_rng(seed).choice(len(queries_QD), config.check_queries, replace=False)
    return queries_QD[np.sort(chosen)]


def _sort_and_cut(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Best first, equal scores by row, missing ones last; padded or cut to k columns."""
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    rows, scores = np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
    padding = ((0, 0), (0, k - rows.shape[1]))
    return np.pad(rows, padding, constant_values=-1), np.pad(scores, padding, constant_values=-np.inf)
