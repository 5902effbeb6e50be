"""New and changed rows into a table by its key, in one commit that rewrites only the partitions it must.

Rows that are stored already are not written again, so that reading the same file twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from delta.tables import DeltaTable as SparkDeltaTable
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from precise_core.warehouse.session import session_settings
from precise_core.warehouse.tables import Warehouse, conform, row_hash
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
        compared: The rows with their state, kept.
        place: Condition on the target of a merge: partitions that can hold the keys.
    """

    warehouse: Warehouse
    table: Table
    compared: DataFrame
    counts: Mapping[str, int]
    place: Column

    def commit(self, run_id: str) -> UpsertResult:
        """Write what is new or corrected, in one commit; none where nothing is."""
        spark = self.compared.sparkSession
        corrected = sum(self.counts.get(state, 0) for state in (CORRECTED, REASSIGNED))
        self.warehouse.create_if_missing(spark, self.table)
        rows = self.compared.where(F.col(STATE) != KEPT).select(*self.table.column_names)
        if corrected:
            _merge(spark, self.warehouse.path(self.table), self.table, rows, self.place, run_id)
        elif self.counts.get(NEW):
            self.warehouse.append(spark, self.table, rows, run_id=run_id)
        self.compared.unpersist()
        return UpsertResult(
            version=self.warehouse.version(self.table),
            new=self.counts.get(NEW, 0),
            corrected=corrected,
            kept=self.counts.get(KEPT, 0),
        )


def plan_upsert(
    warehouse: Warehouse,
    spark: SparkSession,
    table: Table,
    frame: DataFrame,
    *,
    newest_by: str | None = None,
    key_fixes_partition: bool = False,
) -> UpsertPlan:
    """Compare rows with the stored ones of the same key: new keys are added, rows with other content replaced.

    Args:
        frame: The rows, each key once.
        newest_by: Time by which a version of a row is newer; ``frame``'s is, where one of the two has none.
        key_fixes_partition: Two rows of one key lie in one partition: the stored keys of other partitions are not read.
    """
    frame = conform(frame, table).persist(StorageLevel.DISK_ONLY)
    try:
        stored = _stored(warehouse, spark, table)
        if key_fixes_partition:
            stored = stored.where(_in_places(_places(frame, table), table, ""))
        near, place = _possible_matches(stored, frame, table)
        compared = compare(near, frame, table, newest_by).persist(StorageLevel.DISK_ONLY)
        counts = {row[STATE]: row["count"] for row in compared.groupBy(STATE).count().collect()}
        return UpsertPlan(warehouse=warehouse, table=table, compared=compared, counts=counts, place=place)
    finally:
        frame.unpersist()


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


def _stored(warehouse: Warehouse, spark: SparkSession, table: Table) -> DataFrame:
    if not warehouse.exists(table):
        return spark.createDataFrame([], table.spark_schema())
    return warehouse.read(spark, table, warehouse.version(table))


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
) -> int:
    """Make ``frame`` all rows of the table whose ``column`` is one of ``values``, in one commit; returns its rows.

    Nothing is committed where both are empty.
    """
    warehouse.create_if_missing(spark, table)
    stored = warehouse.read(spark, table, warehouse.version(table))
    if stored.where(F.col(column).isin(*values)).isEmpty():
        return warehouse.append(spark, table, frame, run_id=run_id).rows
    return warehouse.write(spark, table, frame, run_id=run_id, replace={column: values}).rows


def _possible_matches(stored: DataFrame, frame: DataFrame, table: Table) -> tuple[DataFrame, Column]:
    """The stored rows that may have a key of ``frame``, and the same condition for the target of a merge.

    Reads the keys and partitions only; on a usual night no key is stored, and nothing else is read.
    """
    keys = frame.select(*table.key)
    met = stored.select(*{*table.key, *table.partition_by}).join(keys, on=list(table.key), how="left_semi")
    if not table.partition_by:
        return (stored.limit(0) if met.isEmpty() else stored), F.lit(True)
    places = _places(met, table)
    return stored.where(_in_places(places, table, "")), _in_places(places, table, "stored.")


def _places(frame: DataFrame, table: Table) -> list[Row]:
    return frame.select(*table.partition_by).distinct().collect()


def _in_places(places: Sequence[Row], table: Table, prefix: str) -> Column:
    """True in these partitions (and combinations of them), so that Delta skips the files of all others."""
    return _all([F.col(prefix + name).isin([row[name] for row in places]) for name in table.partition_by])


def _all(conditions: Sequence[Column]) -> Column:
    return reduce(lambda left, right: left & right, conditions)


def _merge(spark: SparkSession, path: str, table: Table, rows: DataFrame, place: Column, run_id: str) -> None:
    same = [F.col(f"stored.{name}") == F.col(f"new.{name}") for name in table.key]
    merge = SparkDeltaTable.forPath(spark, path).alias("stored").merge(rows.alias("new"), _all([place, *same]))
    with session_settings(spark, {_USER_METADATA: run_id}):
        merge.whenMatchedUpdateAll().whenNotMatchedInsertAll().execute()
