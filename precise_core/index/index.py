"""The vector index over item embeddings (section VI-A).

Shapes: N items, Q queries, D width, k results per query. A *row* is the position of an item in the index.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from precise_core.errors import CheckpointError, ModelError, VersionMixError
from precise_core.index.config import IndexConfig
from precise_core.index.engine import (
    build_engine,
    choose_kind,
    exact_scores,
    faiss,
    is_exact,
    require_good_items,
    require_good_queries,
    require_good_seed_queries,
    search_more_lists,
    search_parameters,
)
from precise_core.store import Place, fetched, new_folder
from precise_core.store.sums import verify_sums, write_sums
from schemas import columns as c

CHECK_K = 100  # recall is measured over as many results as recall jobs usually return
_TIE_SLACK = 8  # results fetched beyond k, so that a tie at the cut can be seen
_BLOCK_QUERIES = 256  # what a thread searches for at a time
_MISSING = 0xFFFF_FFFF  # row -1 as the low half of a sorting key: after every other row of its score

_INDEX_FILE, _ITEMS_FILE, _VECTORS_FILE, _MANIFEST_FILE = "index.faiss", "items.parquet", "vectors.npy", "manifest.json"
_SEED_QUERIES_FILE = "seed_queries.npy"


@dataclass(eq=False, repr=False)
class VectorIndex:
    """Item vectors of one checkpoint, searchable by inner product.

    Attributes:
        item_indices_N: Vocabulary rows (int32), one per row of the index.
        vectors_ND: The vectors (float32), one per row; the exact scores are computed from them.
        seed_queries_ND: What to search with for what comes after each row's item (float32); None where nobody asks.
        model_version: The checkpoint that made the vectors.
        kind: `flat`, `ivf`, `ivf_sq`, `ivf_pq` or `hnsw`.
        rerank: Places looked at per place returned.
        recall: Share of the exact top results that the index finds, as measured when it was built.
    """

    engine: Any
    item_ids: Sequence[str]
    item_indices_N: np.ndarray
    vectors_ND: np.ndarray
    _: KW_ONLY
    model_version: str
    kind: str
    seed_queries_ND: np.ndarray | None = None
    rerank: int = 1
    recall: float = 1.0

    @property
    def in_words(self) -> str:
        """Kind, size, how much of it a search reads, and what it finds."""
        lists = faiss.try_extract_index_ivf(self.engine)
        searched = f"{lists.nprobe:,} of {lists.nlist:,} lists searched, " if lists else ""
        return f"{self.kind} index over {len(self):,} items, {searched}recall {self.recall:.4f} against exact search"

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def width(self) -> int:
        return int(self.vectors_ND.shape[1])

    def search(
        self, queries_QD: np.ndarray, k: int, allowed_rows_N: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k items with the largest inner product per query.

        Queries are of the index's model version. ``allowed_rows_N`` is a boolean mask of the rows that may be returned.

        Returns:
            ``item_rows_Qk`` (int64) and ``scores_Qk`` (float32), best first, equal scores by row. Where fewer than k
            items are found, the rest is row -1 with score -inf. The score of a pair does not depend on the batch.
        """
        if k < 1:
            raise ModelError(f"search for k = {k}: at least 1 is needed")
        queries = require_good_queries(queries_QD, self.width)
        blocks = [queries[start : start + _BLOCK_QUERIES] for start in range(0, len(queries), _BLOCK_QUERIES)]
        parts = self._in_threads(blocks, min(k, len(self)), allowed_rows_N)
        if not parts:
            return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
        padding = ((0, 0), (0, max(0, k - len(self))))
        rows_Qk, scores_Qk = (np.concatenate(column) for column in zip(*parts, strict=True))
        return np.pad(rows_Qk, padding, constant_values=-1), np.pad(scores_Qk, padding, constant_values=-np.inf)

    def exact_search(self, queries_QD: np.ndarray, k: int) -> np.ndarray:
        """Rows of the exact top k, for measuring; rows -1 where there are fewer items."""
        exact = faiss.IndexFlatIP(self.width)
        exact.add(np.ascontiguousarray(self.vectors_ND))
        return exact.search(require_good_queries(queries_QD, self.width), k)[1]

    def save(self, folder: Place, vocabulary_version: int | None = None) -> None:
        """Write the index as a folder, whole or not at all, with its files' SHA-256.

        ``vocabulary_version`` of `item_vocabulary`, to which the item indices belong, is kept in the manifest.
        """
        with new_folder(folder) as target:
            faiss.write_index(self.engine, str(target / _INDEX_FILE))
            np.save(target / _VECTORS_FILE, self.vectors_ND)
            if self.seed_queries_ND is not None:
                np.save(target / _SEED_QUERIES_FILE, self.seed_queries_ND)
            items = pa.table({c.ITEM_ID: pa.array(self.item_ids, pa.string()), c.ITEM_INDEX: self.item_indices_N})
            pq.write_table(items, target / _ITEMS_FILE)
            manifest = {
                "model_version": self.model_version,
                "kind": self.kind,
                "rerank": self.rerank,
                "items": len(self),
                "width": self.width,
                "recall": self.recall,
                "vocabulary_version": vocabulary_version,
            }
            (target / _MANIFEST_FILE).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", "utf-8")
            write_sums(target)

    @classmethod
    def open(cls, folder: Place, model_version: str, *, is_verified: bool = False) -> VectorIndex:
        """Open what ``save`` wrote; index and vectors are memory-mapped, so processes on one machine share them.

        With ``is_verified`` another process of this machine has compared the files with their sums.

        Raises:
            CheckpointError: The folder is incomplete or was changed on disk.
            VersionMixError: The index holds vectors of another checkpoint than ``model_version``.
        """
        root = fetched(folder)
        if not is_verified:
            verify_sums(root)
        manifest = json.loads((root / _MANIFEST_FILE).read_text(encoding="utf-8"))
        if manifest["model_version"] != model_version:
            raise VersionMixError(
                f"index {root}: its vectors are of {manifest['model_version']!r}, the query's of {model_version!r}; "
                "build the index from the same checkpoint"
            )
        engine = faiss.read_index(str(root / _INDEX_FILE), faiss.IO_FLAG_MMAP_IFC)
        items = pq.read_table(root / _ITEMS_FILE)
        if not engine.ntotal == items.num_rows == manifest["items"]:
            raise CheckpointError(f"index {root}: {engine.ntotal} vectors, but {items.num_rows} item ids")
        return cls(
            engine,
            items[c.ITEM_ID].to_pylist(),
            items[c.ITEM_INDEX].to_numpy(),
            _mapped(root / _VECTORS_FILE),
            model_version=model_version,
            kind=manifest["kind"],
            seed_queries_ND=_mapped(root / _SEED_QUERIES_FILE) if (root / _SEED_QUERIES_FILE).is_file() else None,
            rerank=manifest.get("rerank", 1),  # an index built before compressed ones has none
            recall=manifest["recall"],
        )

    def _in_threads(
        self, blocks: Sequence[np.ndarray], k: int, allowed: np.ndarray | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """As many blocks at a time as FAISS would use threads: ranking their results then runs on all of them too."""
        search = partial(self._search_block, k=k, parameters=search_parameters(self.engine, allowed))
        threads = min(faiss.omp_get_max_threads(), len(blocks))
        if threads < 2:
            return [search(block) for block in blocks]
        with ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(search, blocks))

    def _search_block(self, queries: np.ndarray, k: int, parameters: Any) -> tuple[np.ndarray, np.ndarray]:
        fetched = min(k * self.rerank + _TIE_SLACK, len(self))
        while True:
            scores, rows = self.engine.search(queries, fetched, params=parameters)
            cut = scores[:, min(k, fetched) - 1]
            tie_runs_on = (scores[:, -1] == cut) & (rows[:, -1] >= 0)
            # Compressed vectors tie without being equal: the whole ones below rank them.
            if fetched == len(self) or not is_exact(self.kind) or not tie_runs_on.any():
                break
            fetched = min(fetched * 4, len(self))
        return _best(rows, exact_scores(queries, self.vectors_ND, rows), k)


def _mapped(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r", allow_pickle=False)


def build_index(
    item_ids: Sequence[str],
    item_indices_N: np.ndarray,
    vectors_ND: np.ndarray,
    *,
    model_version: str,
    config: IndexConfig,
    seed: int,
    seed_queries_ND: np.ndarray | None = None,
    queries_QD: np.ndarray | None = None,
) -> VectorIndex:
    """Build an index and measure it against exact search; an index below the gate is never returned.

    The order of the items is the order of ties, so pass them sorted by vocabulary row. ``seed_queries_ND`` are kept for
    U2I2I. Half of the measured queries are ``queries_QD``, user vectors, the others what U2I2I searches with; all are
    these where None. ``seed`` is that of k-means, of HNSW's levels and of the choice of queries.

    Raises:
        ModelError: Recall is below ``min_recall``.
    """
    vectors = require_good_items(item_ids, item_indices_N, vectors_ND)
    if seed_queries_ND is not None:
        seed_queries_ND = require_good_seed_queries(seed_queries_ND, vectors)
    kind = choose_kind(config, len(vectors))
    engine = build_engine(kind, vectors, config, seed)
    index = VectorIndex(
        engine,
        item_ids,
        np.asarray(item_indices_N, np.int32),
        vectors,
        model_version=model_version,
        kind=kind,
        seed_queries_ND=seed_queries_ND,
        rerank=1 if is_exact(kind) else config.rerank,
    )
    lookups_ND = vectors if seed_queries_ND is None else seed_queries_ND
    queries = _check_queries(lookups_ND, queries_QD, config.check_queries, seed)
    exact_rows_Qk = index.exact_search(queries, min(CHECK_K, len(index)))
    index.recall = measure_recall(index, queries, CHECK_K, exact_rows_Qk)
    while index.recall < config.min_recall and config.probes is None and search_more_lists(engine):
        index.recall = measure_recall(index, queries, CHECK_K, exact_rows_Qk)
    if index.recall < config.min_recall:
        raise ModelError(
            f"index {kind} over {len(index)} items of {model_version}: recall {index.recall:.4f} against exact search "
            f"is below index.min_recall {config.min_recall}; {_advice(kind, config)}use kind flat"
        )
    return index


def _advice(kind: str, config: IndexConfig) -> str:
    knobs = ["index.probes"] if config.probes else []  # else all lists were searched
    knobs += [] if is_exact(kind) else ["index.rerank"]
    return f"raise {' or '.join(knobs)} or " if knobs else ""


def measure_recall(
    index: VectorIndex, queries_QD: np.ndarray, k: int, exact_rows_Qk: np.ndarray | None = None
) -> float:
    """Share of the exact top-k items that ``index`` returns, mean over the queries; 1.0 where there are none.

    ``exact_rows_Qk`` is what ``exact_search`` finds, for a caller that measures several times.
    """
    k = min(k, len(index))
    if len(queries_QD) == 0:
        return 1.0
    queries = require_good_queries(queries_QD, index.width)
    _, scores = index.search(queries, k)
    # A tie at the cut may be resolved either way: an item as good as the last exact one counts as found.
    exact_rows_Qk = index.exact_search(queries, k) if exact_rows_Qk is None else exact_rows_Qk
    last = exact_scores(queries, index.vectors_ND, exact_rows_Qk)[:, -1:]
    tolerance = 1e-6 * np.maximum(1.0, np.abs(last))
    return float(np.mean(scores >= last - tolerance))


def _check_queries(lookups_ND: np.ndarray, queries_QD: np.ndarray | None, number: int, seed: int) -> np.ndarray:
    """``number`` queries: half of the given ones, half of what U2I2I searches with; all of these where none given.

    Where there are fewer, the rest lies halfway between two of the latter.
    """
    rng = np.random.default_rng(seed)
    given = lookups_ND[:0] if queries_QD is None else np.asarray(queries_QD, np.float32)
    own = _drawn(given, number // 2, rng)
    lookups = _drawn(lookups_ND, number - len(own), rng)
    pairs = rng.integers(len(lookups_ND), size=(2, number - len(own) - len(lookups)))
    return np.concatenate([own, lookups, (lookups_ND[pairs[0]] + lookups_ND[pairs[1]]) / 2])


def _drawn(vectors: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    return vectors[np.sort(rng.choice(len(vectors), min(number, len(vectors)), replace=False))]


def _best(rows_QF: np.ndarray, scores_QF: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best k of each query, equal scores by row, missing ones last.

    Score and row are packed into one integer: sorting those takes a fraction of a sort by two keys.
    """
    bits = (scores_QF + np.float32(0)).view(np.int32)  # -0 becomes 0: they are one score
    falling = ~(bits ^ ((bits >> 31) & np.int32(0x7FFF_FFFF)))  # the order of integers is that of floats, reversed
    keys = (falling.astype(np.int64) << 32) | np.where(rows_QF < 0, _MISSING, rows_QF)
    keys = np.sort(keys, axis=1)[:, :k]
    bits = ~(keys >> 32).astype(np.int32)
    scores = (bits ^ ((bits >> 31) & np.int32(0x7FFF_FFFF))).view(np.float32)
    rows = keys & _MISSING
    return np.where(rows == _MISSING, -1, rows), scores
