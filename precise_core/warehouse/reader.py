"""Delta tables read without Spark: pinned at one version, as files, rows, columns or record batches.

A Delta folder also holds files that a later version dropped; only files that the transaction log lists are read.
deltalake's own `to_pyarrow_table` fails on partitioned tables with the pyarrow that petastorm requires, and has been
seen to abort the interpreter at exit.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from precise_core import artefacts
from precise_core.errors import DataError, HistoryGoneError, MissingTableError, SchemaError
from precise_core.store import is_remote, place_of
from precise_core.warehouse.places import file_of, sizes_of, store_errors
from schemas import TABLES, Table

if TYPE_CHECKING:
    import pandas as pd

_PARTS_PER_MERGE = 64  # bounds the memory of a count over many batches
_DECLARED = {table.name: table for table in TABLES}


class DeltaSnapshot:
    """One version of a Delta table.

    Args:
        path: The table's folder, or a URI that ``deltalake`` understands.
        version: The version to read; None pins the newest one of this moment.
        missing: The message where there is no table; by default it names the job that writes it.

    Raises:
        MissingTableError: There is no table.
        HistoryGoneError: The version does not exist, or not any more.
        DataError: The table uses deletion vectors or column mapping, which a plain Parquet reader would not honour.
    """

    def __init__(self, path: str | Path, version: int | None = None, *, missing: str | None = None) -> None:
        self.path = str(path) if is_remote(path) else str(Path(path).absolute())
        self.name = self.path.rsplit("/", 1)[-1]
        try:
            with store_errors(self.path):
                self._table = DeltaTable(self.path, version=version)
        except (DeltaError, OverflowError) as error:
            if not DeltaTable.is_deltatable(self.path):
                advice = f"; run jobs/{_DECLARED[self.name].written_by}.py first" if self.name in _DECLARED else ""
                raise MissingTableError(missing or f"table {self.name}: not at {self.path}{advice}") from error
            newest = DeltaTable(self.path).version()
            never = f" (version {version} does not exist; versions are 0 to {newest})" if version != newest else ""
            raise HistoryGoneError(f"table {self.name}: version {version} cannot be read any more{never}") from error
        self._refuse_unreadable()

    @property
    def version(self) -> int:
        return int(self._table.version())

    @property
    def schema_json(self) -> str:
        """The schema that the log has, as Delta and Spark write it."""
        return str(self._table.schema().to_json())

    def files(self, partition: Mapping[str, str] | None = None) -> list[str]:
        """URIs of the live files whose partition columns have these values, sorted; the characters are the real ones,
        not percent-encoded."""
        return [file if is_remote(file) else f"file://{file}" for file in self._paths(partition)]

    def row_count(self, partition: Mapping[str, str] | None = None) -> int:
        """Rows in those files, from the log's statistics, or from the Parquet footers where it has none."""
        counts = self._log_column("num_records", partition)
        return sum(map(footer_rows, self.files(partition))) if None in counts else sum(counts)

    def size_bytes(self) -> int:
        return sum(self._log_column("size_bytes"))

    def has_all_files(self) -> bool:
        """Whether every live file is there, as long as the log says."""
        names, sizes = self._log_column("path"), self._log_column("size_bytes")
        return sizes_of(self.path, list(map(unquote, names))) == sizes

    def partition_values(self, column: str) -> list[str]:
        """The distinct values of a partition column, sorted."""
        return sorted(set(self._log_column(f"partition.{column}")))

    def read(self, columns: list[str]) -> pa.Table:
        """Some columns of the whole table in memory.

        Raises:
            DataError: The table has no rows.
        """
        tables = list(self.tables(columns))
        if not sum(table.num_rows for table in tables):
            raise DataError(f"table {self.name}, version {self.version}: no rows")
        return pa.concat_tables(tables)

    def tables(self, columns: list[str], partition: Mapping[str, str] | None = None) -> Iterator[pa.Table]:
        """Some columns of the live files whose partition columns have these values, one file at a time.

        Raises:
            DataError: A file is damaged; the message names it.
        """
        for uri in self.files(partition):
            try:
                with open_parquet(uri) as file:
                    yield file.read(columns)
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{uri}: cannot be read: {error}") from error

    def dataset(self, table: Table) -> ds.Dataset:
        """All rows with the declared columns, those of the partitions included; null where a file lacks a column."""
        schema = table.arrow_schema()
        by = pa.schema([schema.field(name) for name in self._table.metadata().partition_columns])
        partitioning, paths, filesystem = ds.partitioning(by, flavor="hive"), self._paths(), None
        if is_remote(self.path):
            filesystem, paths = file_of(self.path)[0], [file_of(path)[1] for path in paths]
        return ds.dataset(paths, schema=schema, format="parquet", partitioning=partitioning, filesystem=filesystem)

    @cached_property
    def _actions(self) -> pa.Table:
        actions = pa.table(self._table.get_add_actions(flatten=True))
        is_statistic = re.compile(r"(null_count|min|max)\.")  # of every column; large, and not needed here
        return actions.select([name for name in actions.column_names if not is_statistic.match(name)])

    def _log_column(self, name: str, partition: Mapping[str, str] | None = None) -> list[Any]:
        """A column of the log's entries for the live files of a partition; None where the log has no value."""
        actions = self._actions
        for column, value in (partition or {}).items():
            actions = actions.filter(pc.field(f"partition.{column}") == value)
        return actions[name].to_pylist() if name in actions.column_names else [None] * actions.num_rows

    def _paths(self, partition: Mapping[str, str] | None = None) -> list[str]:
        return sorted(f"{self.path}/{unquote(name)}" for name in self._log_column("path", partition))

    def _refuse_unreadable(self) -> None:
        configuration = self._table.metadata().configuration
        if configuration.get("delta.columnMapping.mode", "none") != "none":
            raise DataError(f"table {self.name}: column mapping is on; plain columns only are read")
        if configuration.get("delta.enableDeletionVectors") == "true" or self._has_deletion_vectors():
            raise DataError(f"table {self.name}: deletion vectors are on; set delta.enableDeletionVectors to false")

    def _has_deletion_vectors(self) -> bool:
        if "deletionVectors" not in (self._table.protocol().reader_features or []):
            return False
        return any(batch.num_rows for batch in self._table.deletion_vectors())


class TableReader:
    """The tables of a warehouse; every read that names no version sees the one that was the newest at the first.

    Args:
        warehouse: The folder, or the URI, named `warehouse` in the configuration.

    Raises:
        ConfigError: The path is one that deltalake takes for another.
    """

    def __init__(self, warehouse: str | Path) -> None:
        self.root = warehouse
        self._folder = place_of(warehouse, is_read_only=True)
        self._newest: dict[str, DeltaSnapshot] = {}

    def path(self, table: Table) -> str:
        return f"{self._folder}/{artefacts.TABLES}/{table.name}"

    def exists(self, table: Table) -> bool:
        return table.name in self._newest or DeltaTable.is_deltatable(self.path(table))

    def snapshot(self, table: Table, version: int | None = None) -> DeltaSnapshot:
        if version is None and table.name in self._newest:
            return self._newest[table.name]
        missing = (
            f"table {table.name} is not in {self.root}: give the folder named `warehouse` in the configuration; "
            f"jobs/{table.written_by}.py writes the table"
        )
        found = DeltaSnapshot(self.path(table), version, missing=missing)
        if version is None:
            self._newest[table.name] = found
        return found

    def version(self, table: Table) -> int:
        return self.snapshot(table).version

    def rows(self, table: Table) -> int:
        return self.snapshot(table).row_count()

    def rows_if_any(self, table: Table) -> int:
        """Rows of the table; 0 where it does not exist."""
        return self.rows(table) if self.exists(table) else 0

    def size_bytes(self, table: Table) -> int:
        return self.snapshot(table).size_bytes()

    def dataset(self, table: Table) -> ds.Dataset:
        return self.snapshot(table).dataset(table)

    def read(
        self, table: Table, columns: Sequence[str], where: pc.Expression | None = None, version: int | None = None
    ) -> pa.Table:
        """Some columns and rows; for tables, or slices of tables, that fit into this process.

        Raises:
            HistoryGoneError: A file was removed.
        """
        found = self.snapshot(table, version)
        try:
            return found.dataset(table).to_table(columns=list(columns), filter=where)
        except FileNotFoundError as error:
            raise HistoryGoneError(f"table {table.name}: files of version {found.version} are gone: {error}") from error

    def frame(self, table: Table, columns: Sequence[str], where: pc.Expression | None = None) -> pd.DataFrame:
        return self.read(table, columns, where).to_pandas()

    def counts(self, table: Table, keys: Sequence[str], where: pc.Expression | None = None) -> pd.DataFrame:
        """``keys`` and ``rows``, most rows first, ties by key; the table streams, only the groups stay in memory."""
        dataset = self.dataset(table)
        parts = [dataset.schema.empty_table().select(keys).append_column("rows", pa.array([], pa.int64()))]
        for batch in dataset.scanner(columns=list(keys), filter=where).to_batches():
            rows = pa.array([1] * batch.num_rows, pa.int64())
            parts.append(_sum_rows([pa.Table.from_batches([batch]).append_column("rows", rows)], keys))
            if len(parts) == _PARTS_PER_MERGE:
                parts = [_sum_rows(parts, keys)]
        frame = _sum_rows(parts, keys).to_pandas()
        return frame.sort_values(["rows", *keys], ascending=[False, *[True] * len(keys)], ignore_index=True)


def _sum_rows(parts: list[pa.Table], keys: Sequence[str]) -> pa.Table:
    grouped = pa.concat_tables(parts).group_by(list(keys)).aggregate([("rows", "sum")])
    return grouped.select([*keys, "rows_sum"]).rename_columns([*keys, "rows"])


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
        HistoryGoneError: The version, or one of its files, was removed.
    """
    if name not in _DECLARED:
        raise MissingTableError(f"there is no table {name!r}; the tables are {', '.join(_DECLARED)}")
    declared = _DECLARED[name].column_names
    needed = declared if columns is None else list(columns)
    if unknown := [column for column in needed if column not in declared]:
        raise SchemaError(f"table {name} has no columns {unknown}; its columns are {', '.join(declared)}")
    return TableReader(warehouse).read(_DECLARED[name], needed, where, version)


def open_parquet(uri: str) -> pq.ParquetFile:
    """An open file, to be used in a ``with``; the URI holds the real characters, not percent-encoded ones."""
    filesystem, path = file_of(uri)
    return pq.ParquetFile(path, filesystem=filesystem)


def footer_rows(uri: str) -> int:
    """Rows of a file, without reading them."""
    return int(_footer(uri).num_rows)


def values_per_row(uri: str, columns: Collection[str]) -> int:
    """Mean number of values in a row of these columns, lists counted by their elements, rounded up; 0 without rows."""
    metadata = _footer(uri)
    values = sum(
        chunk.num_values
        for group in map(metadata.row_group, range(metadata.num_row_groups))
        for chunk in map(group.column, range(group.num_columns))
        if chunk.path_in_schema.split(".")[0] in columns
    )
    return -(-values // metadata.num_rows) if metadata.num_rows else 0


def _footer(uri: str) -> pq.FileMetaData:
    try:
        with open_parquet(uri) as file:
            return file.metadata
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {uri}: {error}") from error
