"""Ids: one rule for every format. An id is text, or a whole number, however the format stores it, to the last digit.

7, 7.0 and a decimal 7.00 are the id "7". No id (``invalid_id``) is a number with a fraction, an infinite one, one too
large for a float to hold exactly, a boolean or an object of JSON. NaN stands for a missing id, as null does.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import StructField, StructType, VariantType

# Beyond them a float may stand for two whole numbers: 2^53 is also what 2^53 + 1 is rounded to.
_LARGEST_OF_DOUBLE = 2**53 - 1
_LARGEST_OF_FLOAT = 2**24 - 1
_WHOLE_DECIMAL = r"^-?\d+(\.0*)?$"
# What a value of JSON looks like that is no id as it stands: a number with a fraction or an exponent, a flag, NaN, a
# list or an object. A text may look the same.
_DOUBTFUL = r"""^(-?\d+(\.\d+([eE][+-]?\d+)?|[eE][+-]?\d+)|true|false|[\[{"][\s\S]*)$"""
_NAN = '"NaN"'  # Spark quotes what JSON has no number for


def id_text(column: Column, kind: pa.DataType) -> Column:
    """The ids of a column of ``kind`` as text; null where there is none, or what is there is no id."""
    if pa.types.is_floating(kind):
        return _whole_text(column, _largest(kind))
    if pa.types.is_decimal(kind):
        text = column.cast("string")
        return F.when(text.rlike(_WHOLE_DECIMAL), F.substring_index(text, ".", 1))
    return column.cast("string")


def is_no_id(column: Column, kind: pa.DataType) -> Column:
    """True where there is something in the column that is no id."""
    is_there = column.isNotNull() & ~F.isnan(column) if pa.types.is_floating(kind) else column.isNotNull()
    return is_there & id_text(column, kind).isNull()


def shown_id(column: Column, kind: pa.DataType) -> Column:
    """``column`` for the JSON of a rejected row: read again, it is the same id, or none again.

    What is too large to be exact is left out: JSON knows neither infinity nor how exact a number was.
    """
    if pa.types.is_floating(kind):
        return F.when(F.abs(column) <= F.lit(float(_largest(kind))), column)
    if pa.types.is_decimal(kind) and kind.scale > 0:
        whole = F.when(column.cast("string").rlike(_WHOLE_DECIMAL), column.cast("decimal(38,0)")).cast("variant")
        return F.coalesce(whole, column.cast("variant"))
    return column


def doubtful_ids(line: Column, parsed: Column, names: Sequence[str]) -> Column:
    """The ids of a JSON object as variants, which know what is text; null where all of them are ids as they stand.

    Args:
        line: The object.
        parsed: A struct of its values as text.
        names: The keys that hold ids.
    """
    is_doubtful = [parsed[name].rlike(_DOUBTFUL) for name in names]
    schema = StructType([StructField(name, VariantType()) for name in names])
    return F.when(F.array_contains(F.array(*is_doubtful), True), F.from_json(line, schema))


def json_id(text: Column, value: Column) -> Column:
    """The id that ``text`` stands for; null where it is none.

    Args:
        text: A value of a JSON object as text.
        value: The same as a variant, where ``doubtful_ids`` had to ask; else null.
    """
    is_text = ~text.rlike(_DOUBTFUL) | (F.schema_of_variant(value) == "STRING")
    return F.when(is_text, text).otherwise(_whole_text(text.try_cast("double"), _LARGEST_OF_DOUBLE))


def is_no_json_id(text: Column, value: Column) -> Column:
    """True where a JSON object holds something that is no id."""
    return text.isNotNull() & (text != _NAN) & json_id(text, value).isNull()


def _largest(kind: pa.DataType) -> int:
    return _LARGEST_OF_DOUBLE if pa.types.is_float64(kind) else _LARGEST_OF_FLOAT


def _whole_text(number: Column, largest: int) -> Column:
    is_whole = (F.abs(number) <= F.lit(float(largest))) & (F.rint(number) == number)
    return F.when(is_whole, number.cast("bigint").cast("string"))
