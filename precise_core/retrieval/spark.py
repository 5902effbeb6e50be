"""Recall on Spark: every worker opens the index once and searches for its own users."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark import Broadcast
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.inference.shipping import ship, shipped
from precise_core.inference.spark import ragged_rows
from precise_core.inference.text import fixed_lists
from precise_core.retrieval.config import RecallConfig
from precise_core.retrieval.index import VectorIndex
from precise_core.retrieval.recall import Candidates, recall_u2i, recall_u2i2i
from schemas import RECALL_CANDIDATES
from schemas import columns as c

_Batches = Iterable[pa.RecordBatch]
_OUTPUT = (
    f"{c.USER_ID} string, {c.TASK} string, {c.SOURCE} string, {c.RANK} int, {c.ITEM_ID} string, {c.SCORE} float, "
    f"{c.SEED_ITEM_ID} string, {c.AS_OF} timestamp"
)


def recall_candidates(
    spark: SparkSession,
    users: DataFrame,
    sequences: DataFrame,
    index_folder: Path,
    model_version: str,
    excluded_item_indices: np.ndarray,
    config: RecallConfig,
) -> DataFrame:
    """U2I and U2I2I candidates of users (VI-B, Fig. 6) as rows of `recall_candidates`.

    Args:
        spark: The session.
        users: `user_embeddings` of one task and of ``model_version``.
        sequences: `user_sequences` of the same task; its newest items are the seeds and, on request, filtered out.
        index_folder: The index of the same checkpoint; sent to every executor once.
        model_version: The checkpoint.
        excluded_item_indices: Vocabulary rows that must never be returned.
        config: How many, how far, how decayed.
    """
    VectorIndex.open(index_folder, model_version)  # a changed or foreign index fails here, not in a worker
    excluded = spark.sparkContext.broadcast(np.sort(excluded_item_indices.astype(np.int64)))
    history = sequences.select(c.USER_ID, c.TASK, c.ITEM_INDICES)
    joined = users.join(history, on=[c.USER_ID, c.TASK], how="inner")
    # A few thousand users are a small frame to Spark, which would search for all of them in one task.
    joined = joined.repartition(spark.sparkContext.defaultParallelism, c.USER_ID)
    found = joined.select(c.USER_ID, c.TASK, c.EMBEDDING, c.ITEM_INDICES, c.AS_OF).mapInArrow(
        _searcher(ship(spark, index_folder), model_version, excluded, config), _OUTPUT
    )
    return found.withColumn(c.MODEL_VERSION, F.lit(model_version)).select(*RECALL_CANDIDATES.column_names)


@lru_cache(maxsize=1)
def _open(folder: Path, model_version: str) -> VectorIndex:
    return VectorIndex.open(folder, model_version)


def _searcher(
    name: str, version: str, excluded: Broadcast[np.ndarray], config: RecallConfig
) -> Callable[[_Batches], _Batches]:
    def apply(batches: _Batches) -> _Batches:
        index = _open(shipped(name), version)
        row_of = np.full(int(index.item_indices_N.max(initial=1)) + 1, -1, np.int64)
        row_of[index.item_indices_N] = np.arange(len(index))
        allowed_N = ~np.isin(index.item_indices_N, excluded.value)
        for batch in batches:
            if batch.num_rows:
                vectors_UD = fixed_lists(batch.column(c.EMBEDDING), index.width)
                recent = [_rows(row_of, items[::-1]) for items in ragged_rows(batch.column(c.ITEM_INDICES))]
                seen = recent if config.filter_seen else None
                u2i = recall_u2i(index, vectors_UD, config.k, excluded=seen, allowed_rows_N=allowed_N)
                u2i2i = recall_u2i2i(index, recent, config.k, config, excluded=seen, allowed_rows_N=allowed_N)
                yield _to_batch(batch, index, "u2i", u2i)
                yield _to_batch(batch, index, "u2i2i", u2i2i)

    return apply


def _rows(row_of: np.ndarray, item_indices: np.ndarray) -> np.ndarray:
    """Rows of the index for vocabulary rows, -1 for an item newer than the index."""
    return np.where(item_indices < len(row_of), row_of[np.minimum(item_indices, len(row_of) - 1)], -1)


def _to_batch(batch: pa.RecordBatch, index: VectorIndex, source: str, found: Candidates) -> pa.RecordBatch:
    ids = pa.array(index.item_ids, pa.string())
    users = pa.array(found.user_rows_C)
    seeds = pa.array(found.seed_rows_C, mask=found.seed_rows_C < 0)
    return pa.RecordBatch.from_arrays(
        [
            batch.column(c.USER_ID).take(users),
            batch.column(c.TASK).take(users),
            pa.array([source] * len(found), pa.string()),
            pa.array(found.ranks_C.astype(np.int32)),
            ids.take(pa.array(found.item_rows_C)),
            pa.array(found.scores_C.astype(np.float32)),
            ids.take(seeds),
            batch.column(c.AS_OF).take(users),
        ],
        names=[c.USER_ID, c.TASK, c.SOURCE, c.RANK, c.ITEM_ID, c.SCORE, c.SEED_ITEM_ID, c.AS_OF],
    )
