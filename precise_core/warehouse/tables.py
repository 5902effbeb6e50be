"""Delta tables under one root, as jobs read and write them.

A read is pinned to a version; a write is one commit, and none at all when the rows are already there, so that running
a job twice changes nothing and everything downstream can see that nothing changed.
Beside it reader.py reads without Spark, upsert.py merges rows by key, and care.py commits what changes no row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import TableNotFoundError
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, DataFrameWriter, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from precise_core import artefacts
from precise_core.errors import DataError, MissingTableError, SchemaError
from precise_core.store import is_remote, place_of
from precise_core.warehouse.fingerprints import OF, Fingerprint, fingerprint
from precise_core.warehouse.layout import laid_out
from precise_core.warehouse.log_entries import create_table
from precise_core.warehouse.notes import Note, commit_text, read_fingerprint, read_note
from precise_core.warehouse.places import says_store_errors
from precise_core.warehouse.reader import DeltaSnapshot
from precise_core.warehouse.session import MOST_LISTED_HERE, has_lineage, require_s3
from precise_core.warehouse.task_files import TaskFiles, require_sums
from schemas import Table

# Petastorm reads the Parquet files themselves: a deletion vector beside them would bring deleted rows back.
TABLE_PROPERTIES = {"delta.enableDeletionVectors": "false", "delta.columnMapping.mode": "none"}
_SMALL_BYTES = 64 << 20  # of a table: of a larger one, statistics in the log tell which files hold nothing wanted
_NEW_COLUMNS = ("mergeSchema", "true")  # a table that an older version of the code has made gets the column it lacks


@dataclass(frozen=True)
class WriteResult:
    """What a write left behind: the table's version, the rows written, and whether anything changed."""

    version: int
    rows: int
    changed: bool


class Warehouse:
    """The tables under ``root`` (a local folder, or any URI that Spark and deltalake both reach)."""

    def __init__(self, root: str) -> None:
        # Delta refuses a relative location when it creates a table.
        self.root = place_of(root)

    def path(self, table: Table) -> str:
        return f"{self.root}/{artefacts.TABLES}/{table.name}"

    def path_for(self, spark: SparkSession, table: Table) -> str:
        """The path of a table that ``spark`` is to read or write.

        Raises:
            EnvironmentProblem: The session cannot reach it, or could lose commits there.
        """
        require_s3(spark, self.root)
        return self.path(table)

    @says_store_errors
    def exists(self, table: Table) -> bool:
        return DeltaTable.is_deltatable(self.path(table))

    @says_store_errors
    def version(self, table: Table) -> int:
        """The newest version.

        Raises:
            MissingTableError: The table is not there; the message names the job that writes it.
        """
        try:
            return DeltaTable(self.path(table)).version()
        except TableNotFoundError as error:
            raise MissingTableError(
                f"table {table.name} is not in {self.root}: run jobs/{table.written_by}.py first"
            ) from error

    def read(self, spark: SparkSession, table: Table, version: int) -> DataFrame:
        """The rows of one version; an unpinned Delta DataFrame is not a snapshot (delta-io/delta#918).

        A small table is read as the files that its log lists: Delta asks Spark for that list, a job or three a table.
        Not where lineage is on, which would not know the files as a table.
        """
        if not is_remote(self.root):  # an object store compares sums itself
            snapshot = DeltaSnapshot(self.path(table), version)
            files = snapshot.files()
            require_sums(files)
            is_small = len(files) <= MOST_LISTED_HERE and snapshot.size_bytes() <= _SMALL_BYTES
            # Where one was removed, Delta says so when the rows are asked for.
            if (
                is_small
                and not has_lineage(spark)
                and all(Path(file.removeprefix("file://")).is_file() for file in files)
            ):
                return _frame_of_files(spark, self.path(table), files, snapshot.schema_json)
        return spark.read.format("delta").option("versionAsOf", version).load(self.path_for(spark, table))

    @says_store_errors
    def read_arrow(
        self,
        table: Table,
        version: int,
        columns: Sequence[str] | None = None,
        where: Mapping[str, str | Sequence[str]] | None = None,
    ) -> pa.Table:
        """The rows of one version in this process, without Spark; for tables that fit into it.

        Args:
            columns: All by default.
            where: Partition column -> value or values.
        """
        dataset = DeltaSnapshot(self.path(table), version).dataset(table)
        conditions = [ds.field(name).isin(_listed(value)) for name, value in (where or {}).items()]
        chosen = reduce(lambda left, right: left & right, conditions) if conditions else None
        return dataset.to_table(columns=list(columns or table.column_names), filter=chosen)

    @says_store_errors
    def write(
        self,
        spark: SparkSession,
        table: Table,
        frame: DataFrame,
        *,
        run_id: str,
        replace: Mapping[str, str | Sequence[str]] | None = None,
        note: Mapping[str, Any] | None = None,
        check: Callable[[DataFrame], None] | None = None,
    ) -> WriteResult:
        """Make ``frame`` the content of the table, or of the slice named by ``replace``, in one commit.

        Args:
            frame: The rows, with exactly the declared columns and types.
            replace: Column -> value (or values) of the slice the frame replaces; every row must belong to it.
            note: What the rows were made from (``read_note``), kept in the commit; lost where there is none.
            check: Is given the rows, computed and kept, before anything of the table is touched; what it raises is
                raised, and the table stays as it is.
        """
        # On disk: rows kept in memory come back onto the heap one whole partition at a time, however large it is.
        frame = conform(frame, table).persist(StorageLevel.DISK_ONLY)
        try:
            new = fingerprint(frame, table)
            said = new.in_commit(table, _slice_sql(replace or {}))
            if check:
                check(frame)
            if there := self._where_they_are(spark, table, new, replace):
                return there
            about = commit_text(run_id, note, said)
            writer = _writer(laid_out(frame, table, new.rows), table, about).mode("overwrite")
            if replace:
                _require_inside(frame, table, replace)
                writer = writer.option("replaceWhere", _slice_sql(replace))
            writer.save(self.path_for(spark, table))
            return WriteResult(self.version(table), new.rows, changed=True)
        finally:
            frame.unpersist()

    @says_store_errors
    def write_files(
        self,
        spark: SparkSession,
        files: TaskFiles,
        *,
        run_id: str,
        note: Mapping[str, Any] | None = None,
        check: Callable[[DataFrame], None] | None = None,
    ) -> WriteResult:
        """``write`` of rows that tasks have written into the folder of the table already."""
        table, frame = files.table, conform(files.frame(spark), files.table)
        new = fingerprint(frame, table)
        if check:
            check(frame)
        if there := self._where_they_are(spark, table, new, None):
            return there
        files.commit(commit_text(run_id, note, new.in_commit(table, "")))
        return WriteResult(self.version(table), new.rows, changed=True)

    def _where_they_are(
        self, spark: SparkSession, table: Table, new: Fingerprint, replace: Mapping[str, str | Sequence[str]] | None
    ) -> WriteResult | None:
        """Where the newest version has these rows already; None where they are to be written. Then there is a table."""
        self.create_if_missing(table)
        version = self.version(table)
        return WriteResult(version, new.rows, changed=False) if self._has(spark, table, version, new, replace) else None

    def _has(
        self,
        spark: SparkSession,
        table: Table,
        version: int,
        new: Fingerprint,
        replace: Mapping[str, str | Sequence[str]] | None,
    ) -> bool:
        """Whether a version of the table, or the slice ``replace`` of it, holds the rows with this fingerprint."""
        if self.is_empty(table):
            return not new.rows
        said = new.in_commit(table, _slice_sql(replace or {}))
        if (before := self._fingerprint_in_log(table, version)) and before[OF] == said[OF]:
            return before == said
        current = conform(self.read(spark, table, version), table).where(_slice_filter(replace))
        return new == fingerprint(current, table)

    def _fingerprint_in_log(self, table: Table, version: int) -> Mapping[str, Any] | None:
        """What the log says of the rows, where their files are there: reading them would have noticed a lost one."""
        said = read_fingerprint(self.path(table), version)
        return said if said and DeltaSnapshot(self.path(table), version).has_all_files() else None

    @says_store_errors
    def replace_partitions(
        self,
        table: Table,
        frame: DataFrame,
        partitions: Sequence[Mapping[str, Any]],
        *,
        run_id: str,
        note: Mapping[str, Any] | None,
    ) -> WriteResult:
        """Make ``frame`` the content of whole partitions of an existing table in one commit, without reading them.

        For a caller that knows that they change, has made ``frame`` from a pinned version of them, and has laid it out:
        every Spark task writes a file into every partition it holds a row of. Delta refuses a row of any other
        partition.

        Args:
            partitions: Values of (some of) the partition columns, one mapping per partition or group of partitions.
        """
        writer = conform(frame, table).write.format("delta").option("userMetadata", commit_text(run_id, note))
        writer = writer.option(*_NEW_COLUMNS)
        condition = " OR ".join(f"({_slice_sql(partition)})" for partition in partitions)
        path = self.path_for(frame.sparkSession, table)
        writer.mode("overwrite").option("replaceWhere", condition).save(path)
        return WriteResult(self.version(table), self._rows_in_last_write(table), changed=True)

    def table_id(self, table: Table) -> str:
        """Id of the table; one that was made anew at the same place has another."""
        return str(DeltaTable(self.path(table)).metadata().id)

    def note(self, table: Table, version: int) -> Note | None:
        """What the rows of a version were made from, where their writer has noted it."""
        return read_note(self.path(table), version)

    def _rows_in_last_write(self, table: Table) -> int:
        return int(DeltaTable(self.path(table)).history(1)[0]["operationMetrics"]["numOutputRows"])

    @says_store_errors
    def append(self, table: Table, frame: DataFrame, *, run_id: str, rows: int | None = None) -> WriteResult:
        """Add rows in one commit; no commit where there are none.

        Args:
            rows: How many there are, where that is known; otherwise they are kept and counted first.
        """
        frame, is_known = conform(frame, table), rows is not None
        if rows is None:
            frame = frame.persist(StorageLevel.DISK_ONLY)
        try:
            number = frame.count() if rows is None else rows
            self.create_if_missing(table)
            if not number:
                return WriteResult(self.version(table), 0, changed=False)
            writer = _writer(laid_out(frame, table, number), table, run_id).option(*_NEW_COLUMNS)
            writer.mode("append").save(self.path_for(frame.sparkSession, table))
            return WriteResult(self.version(table), self._rows_in_last_write(table), changed=True)
        finally:
            if not is_known:
                frame.unpersist()

    def is_empty(self, table: Table) -> bool:
        """Whether the newest version of an existing table has no file, and so no row."""
        return not DeltaTable(self.path(table)).file_uris()

    def append_records(self, table: Table, records: Sequence[Mapping[str, Any]]) -> int:
        """Add a few rows without Spark; returns the version. For bookkeeping, where a Spark job would cost seconds."""
        return self._write_records(table, records, mode="append")

    def replace_records(self, table: Table, records: Sequence[Mapping[str, Any]]) -> int:
        """Replace a small table without Spark; returns the version, unchanged where the rows are the same."""
        if self.exists(table):
            version = self.version(table)
            current = self.read_arrow(table, version).select(table.stable_columns).to_pylist()
            new = _records_table(table, records).select(table.stable_columns).to_pylist()
            if _sorted_rows(current) == _sorted_rows(new):
                return version
        return self._write_records(table, records, mode="overwrite")

    @says_store_errors
    def _write_records(self, table: Table, records: Sequence[Mapping[str, Any]], mode: Any) -> int:
        rows = _records_table(table, records)
        if not is_remote(self.root):
            Path(self.path(table)).mkdir(parents=True, exist_ok=True)
        write_deltalake(
            self.path(table),
            rows,
            mode=mode,
            schema_mode="overwrite" if mode == "overwrite" else "merge",  # an older table may lack a new column
            partition_by=list(table.partition_by) or None,
            configuration={"delta.enableDeletionVectors": "false"},
        )
        return self.version(table)

    @says_store_errors
    def create_if_missing(self, table: Table) -> None:
        """Version 0 of a table: its schema and no rows."""
        if not self.exists(table):
            create_table(self.path(table), table, TABLE_PROPERTIES)


def _frame_of_files(spark: SparkSession, folder: str, files: Sequence[str], schema_json: str) -> DataFrame:
    schema = StructType.fromJson(json.loads(schema_json))
    if not files:
        return spark.createDataFrame([], schema)
    return spark.read.schema(schema).option("basePath", folder).parquet(*files).select(*schema.names)


def _writer(frame: DataFrame, table: Table, about: str) -> DataFrameWriter:
    writer = frame.write.format("delta").option("userMetadata", about)
    # Without it every task writes a file into every partition it holds a row of.
    return writer.option("optimizeWrite", "true") if table.partition_by else writer


def conform(frame: DataFrame, table: Table) -> DataFrame:
    """The frame with the declared columns in the declared order; SchemaError names one that does not fit."""
    found = {field.name: field.dataType for field in frame.schema}
    missing = [name for name in table.column_names if name not in found]
    unknown = [name for name in found if name not in table.column_names]
    if missing or unknown:
        raise SchemaError(f"table {table.name}: missing columns {missing}, unknown columns {unknown}")
    for field in table.spark_schema():
        if found[field.name].simpleString() != field.dataType.simpleString():
            raise SchemaError(
                f"table {table.name}, column {field.name}: is {found[field.name].simpleString()}, "
                f"declared as {field.dataType.simpleString()}"
            )
    return frame.select(*table.column_names)


def with_new_columns(frame: DataFrame, table: Table) -> DataFrame:
    """Rows of a table as they are, with null in every nullable column that an older version of the table lacks."""
    lacking = [column for column in table.columns if column.nullable and column.name not in frame.columns]
    return frame.withColumns({column.name: F.lit(None).cast(column.type) for column in lacking})


def _slice_filter(replace: Mapping[str, str | Sequence[str]] | None) -> Column:
    conditions = [F.col(name).isin(*_listed(value)) for name, value in (replace or {}).items()]
    return reduce(lambda left, right: left & right, conditions, F.lit(True))


def _slice_sql(replace: Mapping[str, Any]) -> str:
    literals = {name: ", ".join(map(_sql_literal, _listed(value))) for name, value in replace.items()}
    return " AND ".join(f"{name} IN ({values})" for name, values in literals.items())


def _sql_literal(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _require_inside(frame: DataFrame, table: Table, replace: Mapping[str, str | Sequence[str]]) -> None:
    outside = frame.where(~_slice_filter(replace)).count()
    if outside:
        raise DataError(f"table {table.name}: {outside} rows lie outside the slice {dict(replace)} they would replace")


def _records_table(table: Table, records: Sequence[Mapping[str, Any]]) -> pa.Table:
    columns = {name: [_arrow_value(record.get(name)) for record in records] for name in table.column_names}
    return pa.table(columns, schema=table.arrow_schema())


def _arrow_value(value: Any) -> Any:
    return list(value.items()) if isinstance(value, Mapping) else value


def _sorted_rows(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(repr(row) for row in rows)
