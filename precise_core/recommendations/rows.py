"""Frames as rows of the tables of the lists: ids and words instead of rows of the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from scipy import sparse

from precise_core.recall.numbering import numbered
from precise_core.recommendations.config import RecommendationsConfig
from precise_core.recommendations.knowledge import Catalog, Log
from precise_core.recommendations.names import POPULAR_SOURCE
from precise_core.recommendations.point_in_time import PointInTime
from precise_core.recommendations.policy import listed
from precise_core.recommendations.reasons import SEED, popularity
from precise_core.recommendations.sources import popular
from precise_core.recommendations.spark import SEED_INDEX, WORDS
from precise_core.warehouse.instants import instant
from schemas import CANDIDATE_FEATURES, ITEM_NEIGHBOURS, RECOMMENDATIONS
from schemas import columns as c


def neighbour_rows(
    spark: SparkSession, near: Mapping[str, sparse.csr_matrix], catalog: Catalog, as_of: datetime
) -> DataFrame:
    """Rows of `item_neighbours`."""
    tables = []
    for source, matrix in near.items():
        if not matrix.nnz:  # Spark takes an empty batch for the end of all batches
            continue
        seeds = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        order = np.lexsort((matrix.indices, -matrix.data, seeds))
        seeds, items = seeds[order], matrix.indices[order]
        ranks = numbered(seeds)
        columns = {
            c.SOURCE: pa.array([source] * len(order), pa.string()),
            c.ITEM_ID: catalog.item_ids_N.take(pa.array(seeds)),
            c.RANK: pa.array(ranks.astype(np.int32)),
            c.NEIGHBOUR_ID: catalog.item_ids_N.take(pa.array(items)),
            c.SCORE: pa.array(matrix.data[order].astype(np.float32)),
            c.ITEM_INDEX: pa.array(seeds.astype(np.int32)),
            c.NEIGHBOUR_INDEX: pa.array(items.astype(np.int32)),
        }
        tables.append(pa.table(columns))
    frame = spark.createDataFrame(pa.concat_tables(tables)) if tables else None
    if frame is None:
        return spark.createDataFrame([], ITEM_NEIGHBOURS.spark_schema())
    frame = frame.coalesce(spark.sparkContext.defaultParallelism)  # Spark makes a task of every 10,000 rows
    return frame.withColumn(c.AS_OF, instant(as_of)).select(*ITEM_NEIGHBOURS.column_names)


def feature_rows(
    rows: DataFrame, log: Log, when: datetime, model_version: str | None, held_out_share: float
) -> DataFrame:
    """Rows of `candidate_features` from ``spark.training_rows``."""
    items = log.vocabulary.select(c.ITEM_INDEX, c.ITEM_ID)
    named = rows.join(items, on=c.ITEM_INDEX, how="inner")
    columns: dict[str, Column] = {
        c.AS_OF: instant(when),
        c.MODEL_VERSION: F.lit(model_version).cast("string"),
        c.HELD_OUT_SHARE: F.lit(held_out_share),
    }
    return named.withColumns(columns).select(*CANDIDATE_FEATURES.column_names)


def recommendation_rows(listed: DataFrame, log: Log) -> DataFrame:
    """Rows of `recommendations` from ``spark.recommended``: ids and titles instead of rows of the vocabulary."""
    ids = log.vocabulary.select(c.ITEM_INDEX, c.ITEM_ID)
    titles = ids.join(log.items.select(c.ITEM_ID, c.TITLE), on=c.ITEM_ID, how="left")
    seeds = titles.select(
        F.col(c.ITEM_INDEX).alias(SEED_INDEX),
        F.col(c.ITEM_ID).alias(c.SEED_ITEM_ID),
        F.when(F.length(c.TITLE) > 0, F.col(c.TITLE)).otherwise(F.col(c.ITEM_ID)).alias(c.TITLE),
    )
    named = listed.join(ids, on=c.ITEM_INDEX, how="inner").join(seeds, on=SEED_INDEX, how="left")
    reason = F.replace(WORDS, F.lit(SEED), F.coalesce(F.col(c.TITLE), F.lit("")))
    columns: dict[str, Column] = {c.REASON: reason, c.AS_OF: instant(log.end)}
    return named.withColumns(columns).select(*RECOMMENDATIONS.column_names)


def popular_lists(spark: SparkSession, known: PointInTime, log: Log, users: DataFrame) -> DataFrame:
    """``popular_places`` for users without a history, ``spark.LISTED_DDL``."""
    columns = f"{c.RANK} int, {c.SCORE} float, {c.ITEM_INDEX} int, {WORDS} string, {c.MODEL_VERSION} string"
    rows = spark.createDataFrame(popular_places(known, log.config), f"{c.TASK} string, {c.LIST} string, {columns}")
    same: dict[str, Column] = {
        c.PROBABILITY: F.lit(None).cast("float"),
        c.SOURCES: F.array(F.lit(POPULAR_SOURCE)),
        SEED_INDEX: F.lit(None).cast("int"),
    }
    return users.crossJoin(F.broadcast(rows)).withColumns(same)


def popular_places(
    known: PointInTime, config: RecommendationsConfig
) -> list[tuple[str, str, int, float, int, str, str]]:
    """Task, list, rank, score, row of the item, words and order of what is popular, by the policy of each list: those
    of repeats are empty.

    Of a task of which nothing was taken in 28 days it is what was popular of all time.
    """
    places = []
    for task, facts in known.facts.items():
        days, items, counts = popular(facts, known.num_rows)
        of_days, order = (f" in {days} days", f"{POPULAR_SOURCE}_{days}d") if days else ("", POPULAR_SOURCE)
        kinds = (known.categories_N[items], known.texts_N[items])
        nobody, had = np.zeros(len(items), np.int64), np.zeros(len(items), bool)
        for name, policy in config.lists.items():
            rows, ranks = listed(nobody, items, -np.arange(len(items)), had, *kinds, policy, config.k)
            for rank, item, count in zip(ranks.tolist(), items[rows].tolist(), counts[rows].tolist(), strict=True):
                places.append((task, name, rank, count, item, popularity(count, of_days), order))
    return places
