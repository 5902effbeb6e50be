"""Delta tables of a warehouse for readers without Spark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from precise_core.config.folders import require_delta_path
from precise_core.errors import HistoryGoneError, MissingTableError, SchemaError
from precise_core.warehouse.reader import arrow_dataset
from schemas import TABLES, Table


def snapshot(warehouse: str | Path, table: Table, version: int | None = None) -> DeltaTable:
    """One version of a table, the newest by default.

    Raises:
        MissingTableError: There is no such table; the message names the job that writes it.
        HistoryGoneError: The version is not in the table's log any more.
    """
    path = folder(warehouse, table)
    try:
        return DeltaTable(path, version=version)
    except DeltaError as error:
        # A version whose log entries were cleaned up is "not found", too.
        if isinstance(error, TableNotFoundError) and not DeltaTable.is_deltatable(path):
            raise MissingTableError(
                f"table {table.name} is not in {warehouse}: give the folder named `warehouse` in the configuration; "
                f"jobs/{table.written_by}.py writes the table"
            ) from error
        raise HistoryGoneError(f"table {table.name}: version {version} cannot be read any more") from error


def folder(warehouse: str | Path, table: Table) -> str:
    """The folder of a table.

    Raises:
        ConfigError: The path is one that deltalake takes for another.
    """
    root = Path(warehouse).resolve()
    require_delta_path("warehouse", str(root), is_read_only=True)
    return str(root / "tables" / table.name)


def read_table(
    warehouse: str | Path,
    name: str,
    columns: Sequence[str] | None = None,
    *,
    version: int | None = None,
    where: ds.Expression | None = None,
) -> pa.Table:
    """A whole table, or some of its columns and rows; partition columns included.

    Args:
        warehouse: The folder named `warehouse` in the configuration.
        name: Of the table (docs/tables.md).
        columns: All by default.
        version: Of the Delta table; the newest by default.
        where: Rows to read, e.g. ``pyarrow.dataset.field("task") == "all"``; all by default.

    Raises:
        MissingTableError: There is no such table in the warehouse, or none of that name at all.
        SchemaError: The table has no such column.
        HistoryGoneError: The version, or one of its files, is gone.
    """
    tables = {table.name: table for table in TABLES}
    if name not in tables:
        raise MissingTableError(f"there is no table {name!r}; the tables are {', '.join(tables)}")
    there = tables[name].column_names
    wanted = there if columns is None else list(columns)
    if unknown := [column for column in wanted if column not in there]:
        raise SchemaError(f"table {name} has no columns {unknown}; its columns are {', '.join(there)}")
    return read(warehouse, tables[name], wanted, where, version)


def read(
    warehouse: str | Path,
    table: Table,
    columns: Sequence[str],
    where: ds.Expression | None = None,
    version: int | None = None,
) -> pa.Table:
    """Some columns of one version of a table.

    Raises:
        MissingTableError: There is no such table.
        HistoryGoneError: The version, or one of its files, is gone.
    """
    found = snapshot(warehouse, table, version)
    try:
        return arrow_dataset(folder(warehouse, table), table, found).to_table(columns=list(columns), filter=where)
    except FileNotFoundError as error:
        raise HistoryGoneError(f"table {table.name}: files of version {found.version()} are gone: {error}") from error
