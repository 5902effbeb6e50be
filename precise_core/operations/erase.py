"""Take users out of the tables: their rows deleted, and what quotes them blanked."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from delta.tables import DeltaTable as SparkDeltaTable
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.warehouse.erasure_list import message_pattern, phrase_of, phrases, words_of
from precise_core.warehouse.tables import Warehouse
from schemas import IMPRESSIONS, RANKING_FEATURES, RANKING_SCORES, RUNS, TRAINING_WINDOWS, Table
from schemas import columns as c

MESSAGE = "error"  # of `runs`
# window_id is task/split/user_id/number; a user_id may hold slashes itself.
WINDOW_USER = r"(?s)^[^/]*/[^/]*/(.*)/[^/]*$"

_MESSAGES, _PHRASES = "messages", "phrases"  # all of them in one row


@dataclass(frozen=True)
class Erased:
    """What became of one table: rows before and after, and rows whose text was blanked."""

    rows_before: int
    rows_after: int
    blanked: int


def erases(table: Table) -> bool:
    """Whether rows of this table can belong to a user or quote one."""
    own = {c.USER_ID, c.RAW} & set(table.column_names)
    return bool(own) or table in (TRAINING_WINDOWS, RANKING_SCORES, RUNS)


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
    sizes: set[int] = set()
    if text is not None:  # a row may quote several of them, and an update wants one match
        user_ids = [row[c.USER_ID] for row in users.collect()]
        named = [user_id for user_id in user_ids if words_of(user_id)]
        sizes = {len(words_of(user_id)) for user_id in named} or {1}
        row = ([message_pattern(user_id) for user_id in user_ids], [phrase_of(user_id) for user_id in named])
        source = spark.createDataFrame([row], f"{_MESSAGES} array<string>, {_PHRASES} array<string>")
    condition = _match(table, sizes)
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


def _match(table: Table, sizes: Collection[int]) -> Column:
    """Where a row `t` belongs to, or quotes, a user (or impression) `s`; phrases have one of ``sizes`` in words."""
    if table == RANKING_SCORES:
        return F.col(f"t.{c.IMPRESSION_ID}") == F.col(f"s.{c.IMPRESSION_ID}")
    if c.USER_ID in table.column_names:
        return F.col(f"t.{c.USER_ID}") == F.col(f"s.{c.USER_ID}")
    if table == TRAINING_WINDOWS:
        return F.regexp_extract(f"t.{c.WINDOW_ID}", WINDOW_USER, 1) == F.col(f"s.{c.USER_ID}")
    if c.RAW in table.column_names:
        return F.arrays_overlap(phrases(F.col(f"t.{c.RAW}"), sizes), F.col(f"s.{_PHRASES}"))
    # What is left is `runs`: earlier versions kept messages that name users and their windows.
    return F.exists(f"s.{_MESSAGES}", lambda pattern: F.regexp_like(f"t.{MESSAGE}", pattern))


def _text_column(table: Table) -> str | None:
    """The column that quotes users in a table whose rows are not theirs."""
    if table == RUNS:
        return MESSAGE
    return c.RAW if c.RAW in table.column_names else None
