"""Point-in-time join of a team's own rows with published vectors, in Spark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial, reduce
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.consume import as_of_spark as vectors
from precise_core.consume.as_of_spark import PUBLICATION, SINCE, PublishedVersion
from precise_core.consume.keys import ADDED, require_columns
from precise_core.consume.publications import Publication, publication_history
from precise_core.errors import HistoryGoneError, SchemaError
from precise_core.warehouse.care import is_readable
from precise_core.warehouse.instants import instant
from precise_core.warehouse.reader import TableReader
from schemas import ITEM_EMBEDDINGS, USER_EMBEDDINGS, Table
from schemas import columns as c

_USER, _ITEM, _AT = "_join_user", "_join_item", "_join_at"  # beside whatever the rows call theirs
_OURS = (_USER, _ITEM, _AT, PUBLICATION, vectors.NEWEST)  # there while it joins


def join_vectors(
    rows: DataFrame,
    warehouse: str | Path,
    *,
    at: str,
    task: str = "all",
    user: str = c.USER_ID,
    item: str = c.ITEM_ID,
) -> DataFrame:
    """``rows`` with user_embedding, item_embedding, precise_score, model_version and vector_space; as many as before.

    As `consume.join_vectors` with ``version=AS_OF``: each row gets the newest vectors of the checkpoint that was
    published at its instant, and null where there were none, or where the row has no instant, user or item.

    Args:
        rows: A user, an item and a timestamp per row.
        warehouse: The folder named `warehouse` in the configuration.
        at: Column with the instant that a row must not look beyond.
        task: Whose user vectors.
        user: Column with the user's id.
        item: Column with the item's id.

    Raises:
        SchemaError: A column is missing, twice there, of another type, or would be overwritten.
        MissingTableError: The folder is no warehouse, or nothing is published yet.
        CheckpointError: Nothing was ever published for the task.
        HistoryGoneError: No published version of the vectors can be read any more.
    """
    there, needed = ([name.lower() for name in names] for names in (rows.columns, (user, item, at)))
    require_columns(there, needed, (*ADDED, *_OURS))
    for name, kind in ((user, "string"), (item, "string"), (at, "timestamp")):
        found = rows.schema[_written(rows, name)].dataType.simpleString()
        if found not in (kind, "void"):
            raise SchemaError(f"join_vectors: column {name!r} is {found}, {kind} is needed")
    history = still_there(warehouse, publication_history(warehouse, task))
    users, items = published_vectors(rows.sparkSession, warehouse, history)
    keys = {
        _USER: _quoted(user).cast("string"),
        _ITEM: _quoted(item).cast("string"),
        _AT: _quoted(at).cast("timestamp"),
    }
    joined = vectors.join_vectors(rows.withColumns(keys), users, items, in_use(history), at=_AT, user=_USER, item=_ITEM)
    return joined.select(*(_quoted(name) for name in (*rows.columns, *ADDED)))


def _quoted(name: str) -> Column:
    """A column by its whole name, dots and all."""
    return F.col("`" + name.replace("`", "``") + "`")


def _written(rows: DataFrame, name: str) -> str:
    """The column as the frame spells it; to Spark `User` and `user` are one."""
    return next(column for column in rows.columns if column.lower() == name.lower())


def still_there(warehouse: str | Path, history: Sequence[Publication]) -> list[Publication]:
    """The publications since the last one whose vectors cannot be read any more.

    Raises:
        HistoryGoneError: Not even the newest can be read.
    """
    kept: list[Publication] = []
    for was in reversed(history):
        if not all(_can_be_read(warehouse, table, was) for table in (USER_EMBEDDINGS, ITEM_EMBEDDINGS)):
            break
        kept.insert(0, was)
    if not kept:
        raise HistoryGoneError(f"the vectors that were published for {history[-1].task!r} are gone; encode and publish")
    return kept


def in_use(history: Sequence[Publication]) -> list[PublishedVersion]:
    """Which publication was to be used from when on."""
    return [PublishedVersion(was.model_version, was.valid_from, was.space) for was in history]


def published_vectors(
    spark: SparkSession, warehouse: str | Path, history: Sequence[Publication]
) -> tuple[DataFrame, DataFrame]:
    """Every vector of users and of items that some publications held (``still_there``), and since when readers had it.

    Users are encoded once a night: their vectors are those that a publication began with, and count from its beginning.
    Items that came, or whose text changed, between two nights are in what it ended with, and count from the moment they
    were computed. The hours between need no look of their own.
    """
    users, items = [], []
    for place, was in enumerate(history):
        start = instant(was.valid_from)
        first = partial(_slice, spark, warehouse, was, versions=was.first)
        users_then = first(USER_EMBEDDINGS).where(F.col(c.TASK) == was.task)
        users.append(_of(place, users_then.select(c.USER_ID, start.alias(SINCE), c.EMBEDDING)))
        held = first(ITEM_EMBEDDINGS).select(c.ITEM_ID, start.alias(SINCE), c.EMBEDDING)
        if was.last[ITEM_EMBEDDINGS.name] != was.first[ITEM_EMBEDDINGS.name]:
            later = _slice(spark, warehouse, was, ITEM_EMBEDDINGS, versions=was.last)
            computed = later.where(F.col(c.EMBEDDED_AT) > start)
            held = held.unionByName(computed.select(c.ITEM_ID, F.col(c.EMBEDDED_AT).alias(SINCE), c.EMBEDDING))
        items.append(_of(place, held))
    return reduce(DataFrame.unionByName, users), reduce(DataFrame.unionByName, items)


def _of(place: int, rows: DataFrame) -> DataFrame:
    return rows.withColumn(PUBLICATION, F.lit(place))


def _slice(
    spark: SparkSession, warehouse: str | Path, was: Publication, table: Table, versions: Mapping[str, int]
) -> DataFrame:
    of_version = spark.read.format("delta").option("versionAsOf", versions[table.name])
    return of_version.load(TableReader(warehouse).path(table)).where(F.col(c.MODEL_VERSION) == was.model_version)


def _can_be_read(warehouse: str | Path, table: Table, was: Publication) -> bool:
    """Whether the versions are in the log, and the files of the checkpoint in them are on disk."""
    path, of_checkpoint = TableReader(warehouse).path(table), f"{c.MODEL_VERSION}={was.model_version}/"
    versions = {was.first[table.name], was.last[table.name]}
    return all(is_readable(path, version, of_checkpoint) for version in versions)
