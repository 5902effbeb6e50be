"""What users were shown in a stretch of time: how often each item."""

from __future__ import annotations

from datetime import datetime

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.warehouse.instants import instant
from schemas import columns as c

EXPOSURES = "exposures"


def exposures_per_item(rows: DataFrame, time_column: str, start: datetime, end: datetime) -> DataFrame:
    """``item_id`` and its number of ``rows`` (impressions or events) from ``start`` to before ``end``."""
    in_time = (F.col(time_column) >= instant(start)) & (F.col(time_column) < instant(end))
    return rows.where(in_time).groupBy(c.ITEM_ID).agg(F.count(F.lit(1)).alias(EXPOSURES)).select(c.ITEM_ID, EXPOSURES)
