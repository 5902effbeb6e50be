"""Scalar columns derived from what Great Expectations cannot check: arrays, maps, and keys over many rows."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType

ROWS_WITH_THIS_KEY = "rows_with_this_key"
HAS_NO_NULL_ELEMENT = "has_no_null_element"
IS_IN_TIME_ORDER = "is_in_time_order"
WIDTH = "width"
NORM = "norm"


def certainly(condition: Column) -> Column:
    """``condition``, false where it cannot be decided."""
    # Great Expectations skips nulls: what cannot be decided must not pass.
    return F.coalesce(condition, F.lit(False))


def has_no_null_element(frame: DataFrame, arrays: Sequence[str]) -> Column:
    """Whether none of these arrays holds a null; not searched where the type rules it out."""
    holds = F.lit(True)
    for name in arrays:
        data_type = frame.schema[name].dataType
        if isinstance(data_type, ArrayType) and data_type.containsNull:
            holds = holds & ~F.exists(name, F.isnull)
    return certainly(holds)


def maximum_norm(array: str) -> Column:
    """Largest absolute component, NaN where there is none.

    It is finite and above 0 exactly where the Euclidean norm is, at a tenth of the cost: Spark orders NaN above every
    number, so it comes out as the maximum.
    """
    largest = F.greatest(F.array_max(array), -F.array_min(array))
    return F.coalesce(largest.cast("double"), F.lit(float("nan")))


def with_key_count(frame: DataFrame, key: Sequence[str], read: set[str]) -> DataFrame:
    """Add ``rows_with_this_key``; of a column outside ``read`` only whether it is null is kept.

    Counting keys shuffles every row: columns that no check reads are reduced to that.
    """
    kept = [F.col(name) if name in {*key, *read} else _presence(name) for name in frame.columns]
    return frame.select(*kept).withColumn(ROWS_WITH_THIS_KEY, F.count(F.lit(1)).over(Window.partitionBy(*key)))


def _presence(name: str) -> Column:
    return F.when(F.col(name).isNotNull(), F.lit(True)).alias(name)
