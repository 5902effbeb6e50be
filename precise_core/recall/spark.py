"""Recall on Spark: every worker opens the index once and searches for its own users."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark import Broadcast
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.config.tasks import TaskConfig
from precise_core.index.index import VectorIndex
from precise_core.recall.config import RecallConfig
from precise_core.recall.popular import excluded_items, known_users, popular_candidates, popular_items
from precise_core.recall.recall import RecalledItems
from precise_core.recall.searcher import Searcher
from precise_core.vectors.shipping import ship, shipped
from precise_core.warehouse.arrow_lists import fixed_lists, ragged_rows
from precise_core.warehouse.instants import instant
from schemas import RECALL_CANDIDATES
from schemas import columns as c

_Batches = Iterable[pa.RecordBatch]
_SOURCES = (c.U2I, c.U2I2I)
_SEEN = "_seen"
_FOUND = [name for name in RECALL_CANDIDATES.column_names if name != c.MODEL_VERSION]


@dataclass(frozen=True)
class RecallInputs:
    """The inputs of one task's candidates: the tables at the versions that the run reads.

    Attributes:
        model_version: The published checkpoint of the task.
        as_of: Later events and impressions are not read.
        index_folder: The index over the checkpoint's item vectors, verified.
        user_vectors: `user_embeddings` of the task and the checkpoint.
        impressions: None where nothing was ever shown.
    """

    task: str
    model_version: str
    as_of: datetime
    index_folder: Path
    user_vectors: DataFrame
    sequences: DataFrame
    impressions: DataFrame | None
    events: DataFrame
    items: DataFrame
    vocabulary: DataFrame


@dataclass(frozen=True)
class Recalled:
    """The candidates of one task.

    Attributes:
        rows: Of `recall_candidates`, the slice of the checkpoint.
        users: `user_id` of all who should have candidates.
        without_vector: The known users that the model has no vector for.
        excluded_items: How many items may not be shown.
        cached: Frames to drop once ``rows`` are written.
    """

    rows: DataFrame
    users: DataFrame
    without_vector: DataFrame
    excluded_items: int
    cached: tuple[DataFrame, ...]


def recall_task(
    spark: SparkSession,
    inputs: RecallInputs,
    config: RecallConfig,
    tasks: Mapping[str, TaskConfig],
    longest_history: int,
) -> Recalled:
    """The model's candidates of users with a vector, and with ``config.popular`` what is popular for all others.

    No user in ``inputs.sequences`` has more than ``longest_history`` items.
    """
    shown = inputs.impressions
    if shown is not None:
        shown = shown.where(F.col(c.IMPRESSION_TS) < instant(inputs.as_of))
    known = known_users(inputs.sequences, inputs.user_vectors, shown).persist()
    catalog = (inputs.events, inputs.items, inputs.vocabulary)
    excluded = excluded_items(*catalog, tasks, inputs.as_of, inputs.task).persist()
    excluded_indices = excluded.toPandas()[c.ITEM_INDEX].to_numpy(np.int64)
    rows = recall_candidates(spark, inputs, known, excluded_indices, config)
    users = inputs.user_vectors.select(c.USER_ID)
    others = known.join(inputs.user_vectors, on=c.USER_ID, how="left_anti").persist()
    if config.popular:
        had = others if config.filter_seen else others.withColumn(c.ITEM_INDICES, _nothing())
        longest = longest_history if config.filter_seen else 0
        counted = (inputs.events, inputs.vocabulary, excluded, tasks.get(inputs.task))
        popular = popular_items(*counted, inputs.as_of, config.popular_days, config.k + longest)
        of_slice = (inputs.task, inputs.model_version, inputs.as_of)
        rows = rows.unionByName(popular_candidates(had, popular, config.k, *of_slice))
        users = users.unionByName(others.select(c.USER_ID))
    return Recalled(rows, users, others, len(excluded_indices), (known, excluded, others))


def recall_candidates(
    spark: SparkSession, inputs: RecallInputs, seen: DataFrame, excluded_indices: np.ndarray, config: RecallConfig
) -> DataFrame:
    """U2I and U2I2I candidates of users (VI-B, Fig. 6) as rows of `recall_candidates`.

    The newest items of the task are the seeds of U2I2I. With ``config.filter_seen`` users do not get the items of
    ``seen`` (user_id, item_indices), what they had in any task; nobody gets those of ``excluded_indices``.
    """
    excluded = spark.sparkContext.broadcast(np.sort(excluded_indices))
    history = inputs.sequences.select(c.USER_ID, c.TASK, c.ITEM_INDICES)
    had = seen.select(c.USER_ID, F.col(c.ITEM_INDICES).alias(_SEEN))
    joined = inputs.user_vectors.join(history, on=[c.USER_ID, c.TASK], how="left").join(had, on=c.USER_ID, how="left")
    lists = [F.coalesce(name, _nothing()).alias(name) for name in (c.ITEM_INDICES, _SEEN)]
    # A few thousand users are a small frame to Spark, which would search for all of them in one task.
    joined = joined.repartition(spark.sparkContext.defaultParallelism, c.USER_ID)
    search = _searcher(ship(spark, inputs.index_folder), inputs.model_version, excluded, config)
    found = joined.select(c.USER_ID, c.TASK, c.EMBEDDING, *lists, c.AS_OF).mapInArrow(
        search, RECALL_CANDIDATES.ddl(*_FOUND)
    )
    return found.withColumn(c.MODEL_VERSION, F.lit(inputs.model_version)).select(*RECALL_CANDIDATES.column_names)


def _nothing() -> Column:
    return F.array().cast("array<int>")


@lru_cache(maxsize=1)
def _open(folder: Path, model_version: str) -> VectorIndex:
    verified = folder.with_name(f"{folder.name}.verified")  # what was unpacked is named after its content
    index = VectorIndex.open(folder, model_version, is_verified=verified.is_file())
    verified.touch()
    return index


def _searcher(
    name: str, version: str, excluded: Broadcast[np.ndarray], config: RecallConfig
) -> Callable[[_Batches], _Batches]:
    def apply(batches: _Batches) -> _Batches:
        index = _open(shipped(name), version)
        searcher = Searcher(index, excluded.value, config)
        for batch in batches:
            if batch.num_rows:
                vectors_UD = fixed_lists(batch.column(c.EMBEDDING), index.width)
                recent = searcher.recent(ragged_rows(batch.column(c.ITEM_INDICES)))
                had = searcher.had(recent, ragged_rows(batch.column(_SEEN))) if config.filter_seen else None
                found = (searcher.u2i(vectors_UD, had, config.k), searcher.u2i2i(recent, had, config.k))
                yield _to_batch(batch, index, found)

    return apply


def _to_batch(batch: pa.RecordBatch, index: VectorIndex, found: tuple[RecalledItems, ...]) -> pa.RecordBatch:
    """The candidates of all sources, the sources of ``_SOURCES`` in turn."""
    user_rows, item_rows, ranks, scores, seeds = (
        np.concatenate([getattr(of_source, name) for of_source in found])
        for name in ("user_rows_C", "item_rows_C", "ranks_C", "scores_C", "seed_rows_C")
    )
    sources = np.repeat(np.arange(len(found)), [len(of_source) for of_source in found])
    ids, users = pa.array(index.item_ids, pa.string()), pa.array(user_rows)
    columns = [
        batch.column(c.USER_ID).take(users),
        batch.column(c.TASK).take(users),
        pa.array(_SOURCES, pa.string()).take(pa.array(sources)),
        pa.array(ranks.astype(np.int32)),
        ids.take(pa.array(item_rows)),
        pa.array(scores.astype(np.float32)),
        ids.take(pa.array(seeds, mask=seeds < 0)),
        batch.column(c.AS_OF).take(users),
    ]
    return pa.RecordBatch.from_arrays(columns, names=_FOUND)
