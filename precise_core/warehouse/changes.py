"""What differs between two versions of a table: from its change feed, or by comparing the files they do not share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deltalake import DeltaTable
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.warehouse.reader import DeltaSnapshot
from precise_core.warehouse.spark_errors import gone_history
from precise_core.warehouse.tables import Warehouse
from schemas import Table

_SIGN = "sign"  # +1: only in the newer version, -1: only in the older one
_REMOVED = ("delete", "update_preimage")
_FEED = "delta.enableChangeDataFeed"


@dataclass(frozen=True)
class Changes:
    """Rows that only one of two versions has, cached, and whether some of them are missing in the newer one."""

    frame: DataFrame
    has_removed: bool

    @property
    def added(self) -> DataFrame:
        return self._of_sign(1)

    @property
    def removed(self) -> DataFrame:
        return self._of_sign(-1)

    def _of_sign(self, sign: int) -> DataFrame:
        return self.frame.where(F.col(_SIGN) == sign).drop(_SIGN)


def net_changes(
    spark: SparkSession,
    warehouse: Warehouse,
    table: Table,
    *,
    since: int,
    until: int,
    columns: Sequence[str],
    where: Column | None = None,
) -> Changes:
    """Rows of ``columns`` that only one of two versions has.

    A row that was removed and came back unchanged, or changed in other columns only, is not among them.

    Args:
        columns: What is compared; together they must identify a row. Not a column that was a folder in one of the
            versions and is none in the newer, by whose folders the feed reads all files.
    """
    with gone_history(table, since):
        return _net(_raw(spark, warehouse, table, since, until), columns, where)


def _raw(spark: SparkSession, warehouse: Warehouse, table: Table, since: int, until: int) -> DataFrame:
    path = warehouse.path(table)
    if since == until:
        return warehouse.read(spark, table, until).limit(0).withColumn(_SIGN, F.lit(1))
    old, new = DeltaTable(path, version=since), DeltaTable(path, version=until)
    if all(version.metadata().configuration.get(_FEED) == "true" for version in (old, new)):
        return _from_feed(spark, path, since, until)
    return _from_files(spark, warehouse, table, since, until)


def _from_feed(spark: SparkSession, path: str, since: int, until: int) -> DataFrame:
    feed = spark.read.format("delta").option("readChangeFeed", "true")
    changes = feed.option("startingVersion", since + 1).option("endingVersion", until).load(path)
    return changes.withColumn(_SIGN, F.when(F.col("_change_type").isin(*_REMOVED), -1).otherwise(1))


def _from_files(spark: SparkSession, warehouse: Warehouse, table: Table, since: int, until: int) -> DataFrame:
    """Only files that one version has and the other lacks are read: the others hold the same rows in both."""
    old, new = (set(DeltaSnapshot(warehouse.path(table), version).files()) for version in (since, until))
    sides = [
        _rows_of(spark, warehouse, table, number, only).withColumn(_SIGN, F.lit(sign))
        for number, only, sign in ((since, old - new, -1), (until, new - old, 1))
    ]
    return sides[0].unionByName(sides[1])


def _rows_of(spark: SparkSession, warehouse: Warehouse, table: Table, version: int, files: set[str]) -> DataFrame:
    if not files:
        return warehouse.read(spark, table, version).limit(0)
    return spark.read.schema(table.spark_schema()).option("basePath", warehouse.path(table)).parquet(*sorted(files))


def _net(raw: DataFrame, columns: Sequence[str], where: Column | None) -> Changes:
    changes = raw.where(F.lit(True) if where is None else where).select(*columns, _SIGN).persist(StorageLevel.DISK_ONLY)
    if not _has_removed(changes):
        return Changes(changes, has_removed=False)  # the usual night: only new rows, nothing can cancel out
    sums = changes.groupBy(*columns).agg(F.sum(_SIGN).cast("int").alias(_SIGN))
    net = sums.where(F.col(_SIGN) != 0).persist(StorageLevel.DISK_ONLY)
    return Changes(net, _has_removed(net))


def _has_removed(changes: DataFrame) -> bool:
    # Counts every row, so that all of them are read here, where the error of a missing file is translated.
    return bool(changes.agg(F.count_if(F.col(_SIGN) < 0).alias("removed")).collect()[0]["removed"])
