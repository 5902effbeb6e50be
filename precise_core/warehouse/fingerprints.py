"""Whether rows are the same as others: hashes of rows, and a few numbers that stand for all of them."""

from __future__ import annotations

import hashlib
import json
from functools import reduce
from typing import Any, NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, MapType

from precise_core.errors import DataError
from schemas import Table

OF = "of"
_HASH = "_hash"
_HASHING = 1  # another way to hash rows is another number: what was said by the old one is not compared


class Fingerprint(NamedTuple):
    """How many rows there are, and sums of their hashes in any order: equal fingerprints, equal rows."""

    rows: int
    xor: int | None
    upper: int | None
    lower: int | None

    def in_commit(self, table: Table, of_slice: str) -> dict[str, Any]:
        """For the commit of the rows; comparable with one of the same ``OF``: of the same slice, hashed the same."""
        types = {field.name: field.dataType.simpleString() for field in table.spark_schema()}
        described = json.dumps([_HASHING, of_slice, [[name, types[name]] for name in table.stable_columns]])
        return {OF: hashlib.sha256(described.encode()).hexdigest()[:16], **self._asdict()}


def fingerprint(frame: DataFrame, table: Table) -> Fingerprint:
    """Of rows without a null where the declaration allows none, or in a list.

    Raises:
        DataError: There is such a null; columns are named, with the number of their rows.
    """
    types = {field.name: field.dataType for field in frame.schema}
    has_null = {
        column.name: _has_null(types[column.name], column.name) for column in table.columns if not column.nullable
    }
    hashed, any_null = F.col(_HASH), reduce(lambda left, right: left | right, has_null.values(), F.lit(False))
    sums = (
        F.count(hashed),
        F.bit_xor(hashed),
        # Null where they overflow, which takes more than two billion rows.
        F.try_sum(F.shiftright(hashed, 32)),
        F.try_sum(hashed.bitwiseAND(F.lit(0xFFFF_FFFF))),
    )
    # Nulls are counted together: one count a column is more code than Java compiles at once, where there are many.
    *found, broken = frame.withColumn(_HASH, row_hash(frame, table)).agg(*sums, F.count_if(any_null)).collect()[0]
    if broken:
        counts = frame.agg(*(F.count_if(is_null).alias(name) for name, is_null in has_null.items())).collect()[0]
        by_column = {name: count for name, count in counts.asDict().items() if count}
        raise DataError(f"table {table.name}: rows with a null where none is allowed, by column: {by_column}")
    return Fingerprint(*found)


def row_hash(frame: DataFrame, table: Table) -> Column:
    """A 64-bit hash of a row's content, without bookkeeping columns."""
    parts = [part for name in table.stable_columns for part in _hashable(frame.schema[name].dataType, name)]
    return F.xxhash64(*parts)


def _has_null(data_type: DataType, name: str) -> Column:
    column = F.col(name)
    if isinstance(data_type, ArrayType):
        return column.isNull() | F.exists(column, lambda element: element.isNull())
    if isinstance(data_type, MapType):
        return column.isNull() | F.exists(F.map_values(column), lambda element: element.isNull())
    return column.isNull()


def _hashable(data_type: DataType, name: str) -> list[Column]:
    """What of a column goes into a row's hash.

    xxhash64 ignores nulls and the borders of lists, so that a value moved to the next column would go unnoticed; the
    flag and the size prevent it. A map has no order, so its sorted entries are hashed.
    """
    column = F.col(name)
    if isinstance(data_type, MapType):
        return [column.isNull(), F.size(column), F.array_sort(F.map_entries(column))]
    if isinstance(data_type, ArrayType):
        return [column.isNull(), F.size(column), column]
    return [column.isNull(), column]
