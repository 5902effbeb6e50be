"""Take users out of the tables: their rows deleted, and what quotes them blanked."""

from __future__ import annotations

from dataclasses import dataclass

from delta.tables import DeltaTable as SparkDeltaTable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.spark.warehouse import Warehouse
from schemas import IMPRESSIONS, RANKING_FEATURES, RANKING_SCORES, RUNS, TRAINING_WINDOWS, Table
from schemas import columns as c

# window_id is task/split/user_id/number; a user_id may hold slashes itself.
WINDOW_USER = r"^[^/]*/[^/]*/(.*)/[^/]*$"
_DELIMITERS = r"""[\\s"\',:;|{}\\[\\]\\\\]+"""

_USER_IDS = "user_ids"  # all of them in one row


@dataclass(frozen=True)
class Erased:
    """What became of one table: rows before and after, and rows whose text was blanked."""

    rows_before: int
    rows_after: int
    blanked: int


def erases(table: Table) -> bool:
    """Whether rows of this table can belong to a user or quote one."""
    return _match(table) is not None


def impressions_of(warehouse: Warehouse, spark_users: DataFrame) -> DataFrame:
    """impression_id of everything the users were shown, for the tables that know no users."""
    spark, found = spark_users.sparkSession, None
    for table in (IMPRESSIONS, RANKING_FEATURES):
        if warehouse.exists(table):
            rows = warehouse.read(spark, table, warehouse.version(table))
            ids = rows.join(spark_users, on=c.USER_ID, how="left_semi").select(c.IMPRESSION_ID)
            found = ids if found is None else found.unionByName(ids)
    if found is None:
        return spark.createDataFrame([], f"{c.IMPRESSION_ID} string")
    return found.distinct()


def erase(warehouse: Warehouse, table: Table, users: DataFrame, impressions: DataFrame) -> Erased:
    """Take the users out of one table, in one commit, and none where they are not in it.

    No condition names a user: the log of the table would keep it.

    Args:
        warehouse: Where the table is.
        table: One that ``erases`` says yes to.
        users: Column user_id.
        impressions: Column impression_id: what they were shown.
    """
    spark, version = users.sparkSession, warehouse.version(table)
    rows = warehouse.read(spark, table, version)
    text, source = _text_column(table), impressions if table == RANKING_SCORES else users
    if text is not None:  # a row may quote several of them, and an update wants one match
        source = users.agg(F.collect_list(c.USER_ID).alias(_USER_IDS))
    condition = F.expr(str(_match(table)))
    before = rows.count()
    found = rows.alias("t").join(F.broadcast(source.alias("s")), condition, "left_semi").count()
    if not found:
        return Erased(before, before, 0)
    merge = SparkDeltaTable.forPath(spark, warehouse.path(table)).alias("t").merge(source.alias("s"), condition)
    if text is None:
        merge.whenMatchedDelete().execute()
        return Erased(before, before - found, 0)
    merge.whenMatchedUpdate(set={text: F.lit("")}).execute()
    return Erased(before, before, found)


def _match(table: Table) -> str | None:
    """The SQL condition that a row `t` belongs to, or quotes, a user (or impression) `s`."""
    if table == RANKING_SCORES:
        return f"t.{c.IMPRESSION_ID} = s.{c.IMPRESSION_ID}"
    if c.USER_ID in table.column_names:
        return f"t.{c.USER_ID} = s.{c.USER_ID}"
    if table == TRAINING_WINDOWS:
        return f"regexp_extract(t.{c.WINDOW_ID}, '{WINDOW_USER}', 1) = s.{c.USER_ID}"
    if c.RAW in table.column_names:
        return f"arrays_overlap(split(t.{c.RAW}, '{_DELIMITERS}'), s.{_USER_IDS})"
    if table == RUNS:  # a message may name windows
        return f"exists(s.{_USER_IDS}, user_id -> contains(t.error, concat('/', user_id, '/')))"
    return None


def _text_column(table: Table) -> str | None:
    """The column that quotes users in a table whose rows are not theirs."""
    if table == RUNS:
        return "error"
    return c.RAW if c.RAW in table.column_names else None
