"""The item vocabulary: external item ids to dense model rows, append-only."""

from __future__ import annotations

from datetime import datetime

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from precise_core.warehouse.instants import instant
from schemas import ITEM_VOCABULARY
from schemas import columns as c


def grow_vocabulary(items: DataFrame, existing: DataFrame | None, as_of: datetime) -> DataFrame:
    """Only the new rows of ``schemas.ITEM_VOCABULARY``: items that ``existing`` lacks, in the order of their ids.

    Indexes continue after the largest one ever given (from 2 on), so a row once trained keeps its meaning. One task
    sorts the new ids; after the first night they are few.

    Args:
        items: ``schemas.ITEMS``; deleted items keep their row.
        existing: The vocabulary so far; None on the first night.
    """
    ids = items.select(c.ITEM_ID).distinct()
    offset = F.lit(c.FIRST_ITEM_INDEX - 1)
    if existing is not None:
        ids = ids.join(existing.select(c.ITEM_ID), on=c.ITEM_ID, how="left_anti")
        last = existing.agg(F.coalesce(F.max(c.ITEM_INDEX), offset).alias("last_index"))
        ids = ids.crossJoin(F.broadcast(last))
        offset = F.col("last_index")
    index = F.row_number().over(Window.orderBy(c.ITEM_ID)) + offset
    rows = ids.select(c.ITEM_ID, index.cast("int").alias(c.ITEM_INDEX), instant(as_of).alias(c.FIRST_SEEN))
    return rows.select(*ITEM_VOCABULARY.column_names)


def published_before(items: DataFrame, as_of: datetime) -> DataFrame:
    """Items published before ``as_of``, and those without a time of publication."""
    return items.where(F.coalesce(F.col(c.PUBLISHED_TS) < instant(as_of), F.lit(True)))


def with_item_index(events: DataFrame, vocabulary: DataFrame) -> DataFrame:
    """``events`` with ``item_index``; an item that the vocabulary lacks gets the unknown row."""
    index = vocabulary.select(c.ITEM_ID, c.ITEM_INDEX)
    joined = events.join(index, on=c.ITEM_ID, how="left")
    return joined.withColumn(c.ITEM_INDEX, F.coalesce(F.col(c.ITEM_INDEX), F.lit(c.UNKNOWN_INDEX)))
