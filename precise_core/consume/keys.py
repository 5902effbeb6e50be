"""The three columns that a join needs, of any frame a team has: ids as text, instants in microseconds of UTC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa

from precise_core.errors import SchemaError
from schemas import columns as c

USER, ITEM, AT = "user", "item", "at"
INSTANT = pa.timestamp("us", tz="UTC")
ADDED = (c.USER_EMBEDDING, c.ITEM_EMBEDDING, c.PRECISE_SCORE, c.MODEL_VERSION, c.VECTOR_SPACE)


def keys_of(rows: pd.DataFrame | pa.Table, at: str, user: str, item: str) -> pa.Table:
    """``USER``, ``ITEM`` and ``AT`` of every row; what is missing, or not a time, is null."""
    if not isinstance(rows, pd.DataFrame | pa.Table):
        raise SchemaError(
            f"join_vectors: rows are a {type(rows).__name__}; a pandas DataFrame or a pyarrow Table is needed "
            "(of Polars: rows.to_arrow(), and pl.from_arrow on what comes back)"
        )
    require_columns(list(rows.columns if isinstance(rows, pd.DataFrame) else rows.column_names), (user, item, at))
    return pa.table(
        {USER: _ids(_column(rows, user), user), ITEM: _ids(_column(rows, item), item), AT: _instants(rows, at)}
    )


def require_columns(there: Sequence[str], needed: Sequence[str], added: Sequence[str] = ADDED) -> None:
    """Refuse rows in which a needed column is missing or there twice, or that have a column of a name to be added."""
    missing = [name for name in needed if name not in there]
    taken = [name for name in there if name in added]
    twice = [name for name in dict.fromkeys(needed) if list(there).count(name) > 1]
    if missing or taken or twice:
        problems = {"lack {}": missing, "have {} already": taken, "have {} twice": twice}
        found = " and ".join(problem.format(names) for problem, names in problems.items() if names)
        raise SchemaError(f"join_vectors: rows {found}; their columns are {list(there)}")


def _column(rows: pd.DataFrame | pa.Table, name: str) -> pa.Array:
    try:
        column = rows[name] if isinstance(rows, pa.Table) else pa.array(rows[name], from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        kinds = sorted({type(value).__name__ for value in rows[name].dropna()})
        held = "values of several kinds" if len(kinds) > 1 else f"{kinds[0]} values, which Arrow cannot take"
        raise SchemaError(f"join_vectors: column {name!r} holds {held}: {error}") from error
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column


def _ids(column: pa.Array, name: str) -> pa.Array:
    if column.null_count == len(column):  # of whatever type: pandas makes floats of missing values
        return pa.nulls(len(column), pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise SchemaError(
            f"join_vectors: column {name!r} is {column.type}; ids are text, e.g. rows[{name!r}].astype(str)"
        )
    return column.cast(pa.string())


def _instants(rows: pd.DataFrame | pa.Table, name: str) -> pa.Array:
    if isinstance(rows, pd.DataFrame) and rows[name].dtype == object:
        _require_zones(rows[name], name)
    if isinstance(rows, pd.DataFrame) and isinstance(rows[name].dtype, pd.DatetimeTZDtype):
        rows = pd.DataFrame({name: rows[name].dt.tz_convert("UTC")})  # Arrow does not know every kind of zone
    column = _column(rows, name)
    if column.null_count == len(column):
        return pa.nulls(len(column), INSTANT)
    if not (pa.types.is_timestamp(column.type) and column.type.tz):
        raise SchemaError(
            f"join_vectors: column {name!r} is {column.type}; a timestamp with a time zone is needed, e.g. "
            f"pd.to_datetime(rows[{name!r}], utc=True)"
        )
    if column.type.unit == "ns":  # the microsecond it lies in, so that nothing later is joined
        whole = np.floor_divide(column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False), 1000)
        is_missing = column.is_null().to_numpy(zero_copy_only=False)
        return pa.array(whole, mask=is_missing).cast(INSTANT)
    try:
        return column.cast(INSTANT)
    except pa.ArrowInvalid as error:
        raise SchemaError(f"join_vectors: column {name!r} holds an instant beyond the year 290,000: {error}") from error


def _require_zones(column: pd.Series, name: str) -> None:
    """Python objects may be of several kinds, and Arrow reads those without a zone as UTC."""
    for value in column[column.notna()]:
        if not isinstance(value, datetime) or value.tzinfo is None:
            raise SchemaError(
                f"join_vectors: column {name!r} holds {value!r}; a timestamp with a time zone is needed, e.g. "
                f"pd.to_datetime(rows[{name!r}], utc=True)"
            )
