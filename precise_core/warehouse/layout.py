"""How the rows of a table lie in its files: of what size, and along which time; and tables of an older layout."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from pyspark.sql import DataFrame, SparkSession

from precise_core.errors import DataError
from precise_core.store import above, name_of, store_at
from precise_core.warehouse.log_entries import add_entry, now_ms
from precise_core.warehouse.notes import NEW_LAYOUT
from schemas import Table

_FILE_ROWS = 1_000_000  # of a table with `range_by`, whose rows are narrow: 30 to 100 MB
_FEW_ROWS = 20_000  # of any table: one file
_PARTITION = "partition."
_BESIDE = ".laid_out_anew"  # folder of a table that is being written again


@dataclass(frozen=True)
class Relaid:
    """What a change of layout did: the table's version, its rows, its files before and after."""

    version: int
    rows: int
    files_before: int
    files: int


def laid_out(frame: DataFrame, table: Table, rows: int) -> DataFrame:
    """The same ``rows`` rows in as many partitions as the table is to get files, told apart by ``table.range_by``.

    A table with folders is left as it is: its writer decides.
    """
    if table.partition_by:
        return frame
    if rows <= (_FILE_ROWS if table.range_by else _FEW_ROWS):
        return frame.coalesce(1)
    if table.range_by is None:
        return frame
    return frame.repartitionByRange(math.ceil(rows / _FILE_ROWS), table.range_by)


def has_declared_layout(path: str, table: Table) -> bool:
    """Whether the table at ``path`` has the folders that are declared."""
    return list(DeltaTable(path).metadata().partition_columns) == list(table.partition_by)


def lay_out_anew(spark: SparkSession, path: str, table: Table, *, run_id: str) -> Relaid:
    """Write every row of an existing table again into the files that ``table`` declares, in one commit.

    The commit says that no row has changed: the table keeps its identity, and its change feed shows nothing. A writer
    that dies before it leaves files that nobody reads; the next one begins anew, and ``maintain_tables`` removes those
    inside the table's folder.

    Raises:
        DataError: The new files do not have as many rows as the old ones; nothing was committed.
    """
    old = DeltaTable(path)
    removed = pa.table(old.get_add_actions(flatten=True)).to_pylist()
    rows = spark.read.format("delta").option("versionAsOf", old.version()).load(path)
    number = rows.count()
    added = _write_beside(laid_out(rows, table, number), table, path)
    found = sum(json.loads(action["stats"])["numRecords"] for action in added)
    if found != number:
        raise DataError(f"table {table.name}: {found:,} rows were written of {number:,}; it stays as it was")
    now = now_ms()
    entry = [
        {"commitInfo": _commit_info(now, run_id)},
        {"metaData": _metadata(old, table)},
        *({"remove": _removal(action, now)} for action in removed),
        *({"add": {**action, "dataChange": False}} for action in added),
    ]
    add_entry(path, old.version() + 1, entry)
    return Relaid(old.version() + 1, number, len(removed), len(added))


def _write_beside(frame: DataFrame, table: Table, path: str) -> list[dict[str, Any]]:
    """Write the rows into the table's folder, where no commit knows them yet; returns Delta's entries of the files."""
    tables, name, beside = store_at(above(path)), name_of(path), remove_unfinished(path)
    try:
        frame.write.format("delta").partitionBy(*table.partition_by).save(f"{above(path)}/{beside}")
        log = tables.get(f"{beside}/_delta_log/{0:020}.json")
        assert log is not None  # written a moment ago
        added = [action["add"] for action in map(json.loads, log.text.splitlines()) if "add" in action]
        for file in (unquote(action["path"]) for action in added):
            tables.move(f"{beside}/{file}", f"{name}/{file}")
    finally:
        remove_unfinished(path)
    return added


def remove_unfinished(path: str) -> str:
    """Remove what a killed ``lay_out_anew`` of the table at ``path`` has left beside it; returns the name of that."""
    beside = f"{name_of(path)}{_BESIDE}"
    store_at(above(path)).delete_folder(beside)
    return beside


def _commit_info(now: int, run_id: str) -> dict[str, Any]:
    return {"timestamp": now, "operation": NEW_LAYOUT, "operationParameters": {}, "userMetadata": run_id}


def _metadata(old: DeltaTable, table: Table) -> dict[str, Any]:
    """The metadata of the table as it is, with the folders that are declared."""
    known = old.metadata()
    return {
        "id": known.id,
        "description": known.description,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": old.schema().to_json(),
        "partitionColumns": list(table.partition_by),
        "configuration": dict(known.configuration),
        "createdTime": known.created_time,
    }


def _removal(action: Mapping[str, Any], now: int) -> dict[str, Any]:
    values = {
        name.removeprefix(_PARTITION): None if value is None else str(value)
        for name, value in action.items()
        if name.startswith(_PARTITION)
    }
    return {
        "path": action["path"],
        "deletionTimestamp": now,
        "dataChange": False,
        "extendedFileMetadata": True,
        "partitionValues": values,
        "size": action["size_bytes"],
    }
