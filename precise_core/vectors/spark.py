"""Batch encoding on Spark: Arrow in, Arrow out, one model per Python worker.

A frame is encoded where it is read: give it as many partitions as there are cores. Rows stay in Arrow buffers;
`precise_core.vectors.batch_udf` is the same by Spark's own `predict_batch_udf`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyspark import TaskContext
from pyspark.resource import ResourceInformation
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.errors import VersionMixError
from precise_core.models.catalog import ItemCatalog
from precise_core.models.config import EncoderConfig
from precise_core.models.precise import Precise
from precise_core.training.checkpoint import Checkpoint
from precise_core.vectors.encoding import (
    ITEMS_AT_ONCE,
    HistoryTimes,
    encode_users,
    fuse_catalog,
    fuse_items,
    item_vectors,
    load_catalog,
    load_encoder,
    query_vectors,
)
from precise_core.vectors.shipping import ship, shipped
from precise_core.warehouse.arrow_lists import fixed_lists, float_lists, ragged_rows
from precise_core.warehouse.instants import instant
from schemas import ITEM_EMBEDDINGS, USER_EMBEDDINGS, Table
from schemas import columns as c

_Batches = Iterable[pa.RecordBatch]
_OF_ITEM = [c.ITEM_ID, c.ITEM_INDEX, c.EMBEDDING, c.IS_COLD, c.TEXT_HASH, c.QUERY_EMBEDDING]  # what a worker returns
_OF_USER = [c.USER_ID, c.TASK, c.EMBEDDING, c.SEQUENCE_HASH]


def embed_items(
    spark: SparkSession,
    item_tokens: DataFrame,
    checkpoint: Path,
    embedded_at: datetime,
    catalog_file: Path | None = None,
) -> DataFrame:
    """`item_tokens` to `item_embeddings` under one checkpoint.

    ``catalog_file`` is for contextual models, whose texts are hidden states: workers of one machine map one copy of
    them into memory instead of each receiving them row by row.
    """
    version = Checkpoint.open(checkpoint).model_version  # missing or changed: fails before any Spark job
    name = ship(spark, checkpoint)
    catalog_name = ship(spark, catalog_file) if catalog_file else None
    read = item_tokens.select(c.ITEM_ID, c.ITEM_INDEX, c.TOKEN_IDS, c.TOKEN_COUNT, c.TEXT_HASH)
    encoded = read.mapInArrow(_item_encoder(name, catalog_name), ITEM_EMBEDDINGS.ddl(*_OF_ITEM))
    stamps = {c.MODEL_VERSION: F.lit(version), c.EMBEDDED_AT: F.lit(embedded_at)}
    return encoded.withColumns(stamps).select(*ITEM_EMBEDDINGS.column_names)


def embed_users(
    spark: SparkSession, sequences: DataFrame, checkpoint: Path, catalog_file: Path, max_length: int, as_of: datetime
) -> DataFrame:
    """`user_sequences` of one task, built as of ``as_of``, to `user_embeddings` under one checkpoint."""
    opened = Checkpoint.open(checkpoint)
    encoder = opened.manifest.model.encoder
    columns: list[Column | str] = [c.USER_ID, c.TASK, newest(c.ITEM_INDICES, max_length), sequence_hash(encoder, as_of)]
    if encoder.uses_times:
        seconds = F.transform(newest(c.EVENT_TS, max_length), F.unix_seconds)
        columns.append(seconds.alias(c.EVENT_TS))
    asked_at = math.floor(as_of.timestamp()) if encoder.uses_times else None
    encode = _user_encoder(ship(spark, checkpoint), ship(spark, catalog_file), max_length, asked_at)
    encoded = sequences.select(*columns).mapInArrow(encode, USER_EMBEDDINGS.ddl(*_OF_USER))
    stamps = {c.MODEL_VERSION: F.lit(opened.model_version), c.AS_OF: instant(as_of)}
    return encoded.withColumns(stamps).select(*USER_EMBEDDINGS.column_names)


def newest(column: str, max_length: int) -> Column:
    """The newest ``max_length`` entries of a list of `user_sequences`: all that a model of that length reads."""
    beyond = F.size(column) - F.lit(max_length)
    return F.slice(F.col(column), F.greatest(beyond, F.lit(0)) + F.lit(1), F.lit(max_length)).alias(column)


def sequence_hash(encoder: EncoderConfig, as_of: datetime) -> Column:
    """A hash of what a user's vector is made from: another hash, another vector.

    That of a model that reads times depends on the instant ``as_of`` at which the user is asked: it is another one
    every night.
    """
    made_from = [newest(c.ITEM_INDICES, encoder.max_length)]
    if encoder.uses_times:
        made_from += [newest(c.EVENT_TS, encoder.max_length), instant(as_of)]
    return F.xxhash64(*made_from).alias(c.SEQUENCE_HASH)


def _item_encoder(checkpoint_name: str, catalog_name: str | None) -> Callable[[_Batches], _Batches]:
    def apply(batches: _Batches) -> _Batches:
        model = worker_model(checkpoint_name)
        catalog = shipped_catalog(catalog_name) if catalog_name else None
        trained = model.fusion.is_trained_V.cpu().numpy()
        for batch in batches:
            for start in range(0, batch.num_rows, ITEMS_AT_ONCE):
                yield _encode_batch(model, catalog, trained, batch.slice(start, ITEMS_AT_ONCE))

    return apply


def _encode_batch(
    model: Precise, catalog: ItemCatalog | None, trained: np.ndarray, batch: pa.RecordBatch
) -> pa.RecordBatch:
    """Both vectors of each item: they share the fusion, which is most of the work."""
    indices_N = batch.column(c.ITEM_INDEX).to_numpy()
    if catalog:
        e_ND = fuse_catalog(model, catalog, indices_N)
    else:
        e_ND = fuse_items(
            model, indices_N, fixed_lists(batch.column(c.TOKEN_IDS)), batch.column(c.TOKEN_COUNT).to_numpy()
        )
    known_N = indices_N < len(trained)
    is_cold_N = ~(known_N & trained[np.where(known_N, indices_N, 0)])
    columns = {
        c.ITEM_ID: batch.column(c.ITEM_ID),
        c.ITEM_INDEX: batch.column(c.ITEM_INDEX),
        c.EMBEDDING: float_lists(item_vectors(model, e_ND)),
        c.IS_COLD: pa.array(is_cold_N),
        c.TEXT_HASH: batch.column(c.TEXT_HASH),
        c.QUERY_EMBEDDING: float_lists(query_vectors(model, e_ND)),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in _OF_ITEM], names=_OF_ITEM)


def worker_model(checkpoint_name: str) -> Precise:
    """In a worker: the model, on the task's GPU if Spark gave it one, with as many threads as the task has cores."""
    task = TaskContext.get()
    torch.set_num_threads(task.cpus() if task else 1)
    return load_encoder(shipped(checkpoint_name), gpu_of(task.resources() if task else {}))[1]


def gpu_of(resources: Mapping[str, ResourceInformation]) -> str | None:
    """The address of the GPU that Spark gave to a task (`spark.task.resource.gpu.amount`); None where it gave none."""
    return resources["gpu"].addresses[0] if "gpu" in resources else None


def shipped_catalog(name: str) -> ItemCatalog:
    return load_catalog(next(shipped(name).iterdir()))


def _user_encoder(
    checkpoint_name: str, catalog_name: str, max_length: int, asked_at: int | None
) -> Callable[[_Batches], _Batches]:
    """``asked_at``: epoch seconds at which a model that reads times asks; None for others."""

    def apply(batches: _Batches) -> _Batches:
        model, catalog = worker_model(checkpoint_name), shipped_catalog(catalog_name)
        for batch in batches:
            if not batch.num_rows:
                continue
            times = None
            if asked_at is not None:
                asked_B = np.full(batch.num_rows, asked_at, np.int64)
                times = HistoryTimes(ragged_rows(batch.column(c.EVENT_TS)), asked_B)
            histories = ragged_rows(batch.column(c.ITEM_INDICES))
            vectors_BD = encode_users(model, catalog, histories, max_length, times=times)
            ids, tasks, hashes = (batch.column(name) for name in (c.USER_ID, c.TASK, c.SEQUENCE_HASH))
            yield pa.RecordBatch.from_arrays([ids, tasks, float_lists(vectors_BD), hashes], names=_OF_USER)

    return apply


def one_version(vectors: DataFrame, model_version: str, table: Table) -> DataFrame:
    """The rows of one checkpoint; VersionMixError where there are none, since those of another one would be noise."""
    chosen = vectors.where(F.col(c.MODEL_VERSION) == model_version)
    if chosen.isEmpty():
        there = sorted(row[0] for row in vectors.select(c.MODEL_VERSION).distinct().collect())
        raise VersionMixError(
            f"{table.name} has no rows of {model_version}; it has {there}; run jobs/{table.written_by}.py"
        )
    return chosen
