"""Scalar columns that stand for what Great Expectations cannot look into: arrays, maps, and keys over many rows."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType

from schemas import columns as c

ROWS_WITH_THIS_KEY = "rows_with_this_key"
DATE_IS_OF_TIME = "date_is_of_time"
ARRAYS_HAVE_LENGTH = "arrays_have_length"
HAS_NO_NULL_ELEMENT = "has_no_null_element"
SMALLEST_ITEM_INDEX = "smallest_item_index"
IS_IN_TIME_ORDER = "is_in_time_order"
LAST_EVENT_IS_NEWEST = "last_event_is_newest"
WIDTH = "width"
NORM = "norm"


def nothing(frame: DataFrame) -> DataFrame:
    """For tables whose columns say everything."""
    return frame


def event_facts(frame: DataFrame) -> DataFrame:
    """Whether the partition is the day of the event."""
    return frame.withColumn(DATE_IS_OF_TIME, certainly(F.col(c.EVENT_DATE) == F.to_date(c.EVENT_TS)))


def sequence_facts(frame: DataFrame) -> DataFrame:
    """What makes three parallel arrays a sequence (``schemas.USER_SEQUENCES``)."""
    arrays = [c.ITEM_INDICES, c.SCENES, c.EVENT_TS]
    times = F.col(c.EVENT_TS)
    same_length = [F.size(name) == F.col(c.LENGTH) for name in arrays]
    return frame.withColumns(
        {
            ARRAYS_HAVE_LENGTH: certainly(same_length[0] & same_length[1] & same_length[2]),
            HAS_NO_NULL_ELEMENT: has_no_null_element(frame, arrays),
            SMALLEST_ITEM_INDEX: F.array_min(c.ITEM_INDICES),
            IS_IN_TIME_ORDER: certainly(times == F.sort_array(times)),
            LAST_EVENT_IS_NEWEST: certainly(F.col(c.LAST_EVENT_TS) == F.array_max(times)),
        }
    )


def embedding_facts(frame: DataFrame) -> DataFrame:
    """Width and largest absolute component of ``embedding``.

    The largest component (maximum norm) is finite and above 0 exactly where the Euclidean norm is, at a tenth of the
    cost: Spark orders NaN above every number, so it comes out as the maximum.
    """
    vector = F.col(c.EMBEDDING)
    largest = F.greatest(F.array_max(vector), -F.array_min(vector))
    return frame.withColumns(
        {
            WIDTH: F.coalesce(F.size(vector), F.lit(-1)),
            NORM: F.coalesce(largest.cast("double"), F.lit(float("nan"))),
            HAS_NO_NULL_ELEMENT: has_no_null_element(frame, [c.EMBEDDING]),
        }
    )


def vector_facts(frame: DataFrame) -> DataFrame:
    """Largest absolute component of ``vector``; as ``embedding_facts``."""
    vector = F.col(c.VECTOR)
    largest = F.greatest(F.array_max(vector), -F.array_min(vector))
    return frame.withColumn(NORM, F.coalesce(largest.cast("double"), F.lit(float("nan"))))


def with_reference(frame: DataFrame, column: str, other: DataFrame, other_column: str, name: str) -> DataFrame:
    """``frame`` with ``name``: whether the value of ``column`` occurs in ``other_column`` of ``other``."""
    known = other.select(F.col(other_column).alias(column), F.lit(True).alias(name)).distinct()
    columns = frame.columns
    joined = frame.join(known, on=column, how="left")
    return joined.select(*columns, certainly(F.col(name)).alias(name))


def state_facts(frame: DataFrame) -> DataFrame:
    """Width of a state and the largest absolute component of a text's ``states``; as ``embedding_facts``."""
    vector = F.col(c.STATES)
    return frame.withColumns(
        {
            WIDTH: F.coalesce(F.try_divide(F.size(vector), F.col(c.TOKEN_COUNT)), F.lit(-1.0)),
            NORM: F.coalesce(F.greatest(F.array_max(vector), -F.array_min(vector)).cast("double"), F.lit(float("nan"))),
            HAS_NO_NULL_ELEMENT: has_no_null_element(frame, [c.STATES]),
        }
    )


def with_key_count(frame: DataFrame, key: Sequence[str], read: set[str]) -> DataFrame:
    """Add ``rows_with_this_key``; of a column outside ``read`` only whether it is null is kept.

    Counting keys moves every row between machines; what stays behind is what nobody looks at.
    """
    kept = [F.col(name) if name in {*key, *read} else _presence(name) for name in frame.columns]
    return frame.select(*kept).withColumn(ROWS_WITH_THIS_KEY, F.count(F.lit(1)).over(Window.partitionBy(*key)))


def _presence(name: str) -> Column:
    return F.when(F.col(name).isNotNull(), F.lit(True)).alias(name)


def certainly(condition: Column) -> Column:
    """``condition``, false where it cannot be decided."""
    # Great Expectations skips nulls: what cannot be decided must not pass.
    return F.coalesce(condition, F.lit(False))


def has_no_null_element(frame: DataFrame, arrays: Sequence[str]) -> Column:
    """Whether none of these arrays holds a null; not asked where the type rules it out."""
    holds = F.lit(True)
    for name in arrays:
        data_type = frame.schema[name].dataType
        if isinstance(data_type, ArrayType) and data_type.containsNull:
            holds = holds & ~F.exists(name, F.isnull)
    return certainly(holds)
