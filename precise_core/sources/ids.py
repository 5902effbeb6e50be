"""Ids: one rule for every format. An id is text, or a whole number, however the format stores it, to the last digit.

7, 7.0 and a decimal 7.00 are the id "7". No id (``invalid_id``) is a number with a fraction, an infinite one, one too
large for a float to hold exactly, a boolean or an object of JSON. NaN is a missing id, as null is.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql import functions as F

# Beyond them a float may be the value of two whole numbers: 2^53 + 1 is rounded to 2^53.
_LARGEST_OF_DOUBLE = 2**53 - 1
_LARGEST_OF_FLOAT = 2**24 - 1
_WHOLE_DECIMAL = r"^-?\d+(\.0*)?$"
_NAN = "NaN"
_LONGEST_NUMBER = 512  # digits; 1e999999999 is not written out


class JsonNumber(str):
    """A number of JSON (or NaN, Infinity) as it is written, to distinguish it from text of the same characters."""


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


def id_of_json(value: Any) -> str | None:
    """The id in a value of a JSON object; null where there is none, or it is none.

    Args:
        value: Text, ``JsonNumber``, or what the json module makes of anything else.
    """
    if not isinstance(value, JsonNumber):
        return value if isinstance(value, str) else None
    try:
        number = Decimal(value)
    except InvalidOperation:  # an exponent of twenty digits
        return None
    if not number.is_finite() or number.adjusted() > _LONGEST_NUMBER or number != number.to_integral_value():
        return None
    return str(int(number))


def is_json_id(value: Any) -> bool:
    """Whether a value of a JSON object is an id, or a missing one."""
    return value is None or (isinstance(value, JsonNumber) and value == _NAN) or id_of_json(value) is not None


def _largest(kind: pa.DataType) -> int:
    return _LARGEST_OF_DOUBLE if pa.types.is_float64(kind) else _LARGEST_OF_FLOAT


def _whole_text(number: Column, largest: int) -> Column:
    is_whole = (F.abs(number) <= F.lit(float(largest))) & (F.rint(number) == number)
    return F.when(is_whole, number.cast("bigint").cast("string"))
