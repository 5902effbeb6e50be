"""The common shape of the rows of every source, before any rule is applied.

A raw frame has the columns of its canonical table, already renamed, and typed where the cell could be read (null where
not; ``file_sequence`` until the intake fills it), followed by three that stay with the row so that a rejected one shows
what was delivered:

- ``problem``: the reason to reject the row that the reader already knows (``malformed_row``, ...), else null;
- ``raw``: the original row as JSON;
- ``source_file``: the file or source it came from;
- ``raw_parts``, where making the JSON is worth putting off until it is known which rows are rejected: what ``raw`` is
  made of, as a struct of ``text`` (the JSON itself, or null) and ``cells`` (the row). Spark can order and hash it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from schemas import EVENTS, IMPRESSIONS, ITEMS
from schemas import columns as c

PROBLEM = "problem"
RAW_PARTS = "raw_parts"
_TEXT, _CELLS = "text", "cells"
_JSON = {"ignoreNullFields": "false", "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX"}

# Reasons a reader can know; the rules of precise_core/intake/cleaning.py add theirs.
MALFORMED_ROW = "malformed_row"
INVALID_ID = "invalid_id"
INVALID_TIME = "invalid_time"
INVALID_VALUE = "invalid_value"
INVALID_FLAG = "invalid_flag"

RAW_EVENT_TYPES: Mapping[str, str] = {
    column.name: column.type for column in EVENTS.columns if column.name != c.EVENT_DATE
}
RAW_ITEM_TYPES: Mapping[str, str] = {column.name: column.type for column in ITEMS.columns}
RAW_IMPRESSION_TYPES: Mapping[str, str] = {column.name: column.type for column in IMPRESSIONS.columns}


@dataclass(frozen=True, kw_only=True)
class RawTables:
    """What a source holds, or what is new in it; a table of which nothing was read is None.

    Columns are those of ``RAW_EVENT_TYPES``, ``RAW_ITEM_TYPES`` and ``RAW_IMPRESSION_TYPES``, each followed by problem,
    raw, source_file and perhaps raw_parts.

    Args:
        has_catalog: False where there is none, and the items are those of the events (``items_of_events``).
    """

    events: DataFrame | None
    items: DataFrame | None
    impressions: DataFrame | None = None
    has_catalog: bool = True


def raw_frame(
    frame: DataFrame,
    types: Mapping[str, str],
    columns: Mapping[str, Column],
    *,
    source_file: Column,
    raw: Column | None = None,
    parts: Column | None = None,
    problem: Column | None = None,
) -> DataFrame:
    """``frame`` in the raw shape ``types``; a canonical column that ``columns`` does not name is null.

    Args:
        raw: The original row; by default all columns of ``frame``.
        parts: What ``raw`` is made of, where that is kept.
    """
    unknown = sorted(set(columns) - set(types))
    if unknown:
        raise KeyError(f"not columns of this raw shape: {unknown}; it has {list(types)}")
    missing = F.lit(None)
    return frame.select(
        *[columns.get(name, missing).cast(type_name).alias(name) for name, type_name in types.items()],
        (missing if problem is None else problem).cast("string").alias(PROBLEM),
        (row_as_json(*map(F.col, frame.columns)) if raw is None else raw).alias(c.RAW),
        source_file.alias(c.SOURCE_FILE),
        *([] if parts is None else [parts.alias(RAW_PARTS)]),
    )


def row_as_json(*columns: Column) -> Column:
    """The columns as one JSON object, nulls shown."""
    return F.to_json(F.struct(*columns), _JSON)


def parts_of_row(columns: Sequence[Column], text: Column) -> Column:
    """The parts of a row: ``text`` where it is not null, else the columns."""
    return F.struct(text.alias(_TEXT), F.when(text.isNull(), F.struct(*columns)).alias(_CELLS)).alias(RAW_PARTS)


def text_of_parts() -> Column:
    """``raw``, made of ``raw_parts``."""
    return F.coalesce(F.col(RAW_PARTS)[_TEXT], F.to_json(F.col(RAW_PARTS)[_CELLS], _JSON))


def hidden_parts(raw: DataFrame, is_hidden: Column) -> Column:
    """``raw_parts``, of which nothing is left where ``is_hidden``."""
    kind = raw.schema[RAW_PARTS].dataType  # not its name, in which nobody quotes a blank
    nothing = F.struct(F.lit("").alias(_TEXT), F.lit(None).alias(_CELLS)).cast(kind)
    return F.when(is_hidden, nothing).otherwise(F.col(RAW_PARTS))


def one_below_another(frames: Sequence[DataFrame]) -> DataFrame:
    """Rows of files of one shape; raw_parts stay only where those are of one shape, too."""
    kinds = {frame.schema[RAW_PARTS].dataType.simpleString() for frame in frames if RAW_PARTS in frame.columns}
    if len(kinds) > 1 or any(RAW_PARTS not in frame.columns for frame in frames):
        frames = [frame.drop(RAW_PARTS) for frame in frames]
    return reduce(DataFrame.unionByName, frames)


def items_of_events(events: DataFrame) -> DataFrame:
    """A catalog without text: the distinct item ids of raw ``events``, for sources that have no catalog."""
    ids = events.select(c.ITEM_ID).where(F.trim(c.ITEM_ID) != "").distinct()
    return raw_frame(ids, RAW_ITEM_TYPES, {c.ITEM_ID: F.col(c.ITEM_ID)}, source_file=F.lit("item ids of the events"))
