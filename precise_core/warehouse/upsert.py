"""New and changed rows into a table by its key, in one commit that rewrites only the files it must.

Rows that are stored already are not written again, so that reading the same file twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from delta.tables import DeltaTable as SparkDeltaTable
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.warehouse.fingerprints import row_hash
from precise_core.warehouse.session import session_settings
from precise_core.warehouse.tables import Warehouse, conform
from schemas import Table
from schemas import columns as c

STATE = "state"
NEW, CORRECTED, REASSIGNED, KEPT = "new", "corrected", "reassigned", "kept"

_USER_METADATA = "spark.databricks.delta.commitInfo.userMetadata"


@dataclass(frozen=True, kw_only=True)
class UpsertResult:
    """Rows added, rows that replaced a stored one, and rows that were there already or are older than what is there."""

    version: int
    new: int
    corrected: int
    kept: int

    @property
    def changed(self) -> bool:
        return self.new + self.corrected > 0

    @property
    def rows(self) -> int:
        return self.new + self.corrected + self.kept


@dataclass(frozen=True, kw_only=True)
class UpsertPlan:
    """What an upsert will do; nothing is written before ``commit``.

    Attributes:
        compared: The rows with their state; kept where some are stored already.
        place: Condition on the target of a merge: rows that can have one of the keys.
    """

    warehouse: Warehouse
    table: Table
    compared: DataFrame
    counts: Mapping[str, int]
    place: Column

    def commit(self, run_id: str) -> UpsertResult:
        """Write what is new or corrected, in one commit; none where nothing is."""
        spark = self.compared.sparkSession
        corrected, new = sum(self.counts.get(state, 0) for state in (CORRECTED, REASSIGNED)), self.counts.get(NEW, 0)
        self.warehouse.create_if_missing(self.table)
        rows = self.compared.where(F.col(STATE) != KEPT).select(*self.table.column_names)
        if corrected:
            _merge(spark, self.warehouse.path_for(spark, self.table), self.table, rows, self.place, run_id)
        elif new:
            new = self.warehouse.append(self.table, rows, run_id=run_id, rows=new).rows
        self.compared.unpersist()
        return UpsertResult(
            version=self.warehouse.version(self.table), new=new, corrected=corrected, kept=self.counts.get(KEPT, 0)
        )


def plan_upsert(
    warehouse: Warehouse,
    spark: SparkSession,
    table: Table,
    frame: DataFrame,
    *,
    rows: int | None = None,
    newest_by: str | None = None,
    span: tuple[int, int] | None = None,
) -> UpsertPlan:
    """Compare rows with the stored ones of the same key: new keys are added, rows with other content replaced.

    Args:
        frame: The rows, each key once; read several times.
        rows: How many they are, where that is known.
        newest_by: Time by which a version of a row is newer; ``frame``'s is, where one of the two has none.
        span: Where two rows of one key have one ``table.range_by``: the first and last of ``frame``, in microseconds
            since 1970. Stored rows beyond are not read.
    """
    frame, place = conform(frame, table), F.lit(False)
    number = frame.count() if rows is None else rows
    if number and warehouse.exists(table) and not warehouse.is_empty(table):
        stored = warehouse.read(spark, table, warehouse.version(table))
        if span is not None:
            stored = stored.where(_within(span, table, ""))
        near, place = _possible_matches(conform(stored, table), frame, table)
        if near is not None:
            compared = compare(near, frame, table, newest_by).persist(StorageLevel.DISK_ONLY)
            counts = {row[STATE]: row["count"] for row in compared.groupBy(STATE).count().collect()}
            return UpsertPlan(warehouse=warehouse, table=table, compared=compared, counts=counts, place=place)
    compared, counts = frame.withColumn(STATE, F.lit(NEW)), {NEW: number} if number else {}
    return UpsertPlan(warehouse=warehouse, table=table, compared=compared, counts=counts, place=place)


def upsert(
    warehouse: Warehouse,
    spark: SparkSession,
    table: Table,
    frame: DataFrame,
    *,
    run_id: str,
    newest_by: str | None = None,
) -> UpsertResult:
    """``plan_upsert`` and its commit, where nothing has to be looked at in between."""
    return plan_upsert(warehouse, spark, table, frame, newest_by=newest_by).commit(run_id)


def compare(stored: DataFrame, frame: DataFrame, table: Table, newest_by: str | None = None) -> DataFrame:
    """``frame`` with ``state``: `new`, `corrected` (another row of this key is stored), `reassigned` (one of another
    user is), or `kept`."""
    now, then, stored_time, stored_user = "hash_now", "hash_then", "stored_time", "stored_user"
    has_user = c.USER_ID in table.column_names and c.USER_ID not in table.key
    times = [] if newest_by is None else [F.col(newest_by).alias(stored_time)]
    users = [F.col(c.USER_ID).alias(stored_user)] if has_user else []
    known = conform(stored, table).select(*table.key, row_hash(stored, table).alias(then), *times, *users)
    joined = frame.withColumn(now, row_hash(frame, table)).join(known, on=list(table.key), how="left")
    is_kept = F.col(now) == F.col(then)
    if newest_by is not None:
        is_kept = is_kept | F.coalesce(F.col(stored_time) > F.col(newest_by), F.lit(False))
    state = F.when(F.col(then).isNull(), NEW).when(is_kept, KEPT)
    if has_user:
        state = state.when(F.col(c.USER_ID) != F.col(stored_user), REASSIGNED)
    state = state.otherwise(CORRECTED)
    return joined.withColumn(STATE, state).select(*table.column_names, STATE)


def replace_values(
    warehouse: Warehouse,
    spark: SparkSession,
    table: Table,
    frame: DataFrame,
    column: str,
    values: Sequence[str],
    *,
    run_id: str,
    rows: int | None = None,
) -> int:
    """Make ``frame`` all rows of the table whose ``column`` is one of ``values``, in one commit; returns its rows.

    Nothing is committed where both are empty.

    Args:
        rows: How many ``frame`` has, where that is known.
    """
    warehouse.create_if_missing(table)
    if warehouse.is_empty(table) or _holds_none(warehouse, spark, table, column, values):
        return warehouse.append(table, frame, run_id=run_id, rows=rows).rows
    return warehouse.write(spark, table, frame, run_id=run_id, replace={column: values}).rows


def _holds_none(warehouse: Warehouse, spark: SparkSession, table: Table, column: str, values: Sequence[str]) -> bool:
    stored = warehouse.read(spark, table, warehouse.version(table))
    return stored.where(F.col(column).isin(*values)).isEmpty()


def _possible_matches(stored: DataFrame, frame: DataFrame, table: Table) -> tuple[DataFrame | None, Column]:
    """The stored rows that may have a key of ``frame``, and the same condition for the target of a merge.

    Reads the keys, and the time the files are told apart by, only; on a usual night no key is stored (None), and
    nothing else is read.
    """
    keys = frame.select(*table.key)
    read = [*table.key, *([table.range_by] if table.range_by else [])]
    met = stored.select(*read).join(keys, on=list(table.key), how="left_semi")
    if table.range_by is None:
        return (None if met.isEmpty() else stored), F.lit(True)
    micros = F.unix_micros(table.range_by)
    first, last = met.agg(F.min(micros), F.max(micros)).collect()[0]
    if first is None:
        return None, F.lit(False)
    return stored.where(_within((first, last), table, "")), _within((first, last), table, "stored.")


def _within(span: tuple[int, int], table: Table, prefix: str) -> Column:
    """True from the first to the last microsecond, so that Delta skips the files that lie beyond."""
    first, last = (F.timestamp_micros(F.lit(micros)) for micros in span)
    return F.col(f"{prefix}{table.range_by}").between(first, last)


def _merge(spark: SparkSession, path: str, table: Table, rows: DataFrame, place: Column, run_id: str) -> None:
    same = [F.col(f"stored.{name}") == F.col(f"new.{name}") for name in table.key]
    merge = (
        SparkDeltaTable.forPath(spark, path)
        .alias("stored")
        .merge(rows.alias("new"), reduce(Column.__and__, [place, *same]))
    )
    with session_settings(spark, {_USER_METADATA: run_id}):
        merge.whenMatchedUpdateAll().whenNotMatchedInsertAll().execute()
