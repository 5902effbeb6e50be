"""Point-in-time join of rows with published vectors, in Spark.

The publication that was valid at a row's instant decides, for its user and its item alike, and only its vectors are
joined: the newest one of the user, and of the item, at the instant. Later checkpoints or vectors, and those removed by
then, are never joined: a row without a vector has null, it is not filled from another night.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial, reduce
from itertools import pairwise
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.consume.keys import ADDED, require_columns
from precise_core.consume.publications import Publication, publication_history
from precise_core.errors import DataError, HistoryGoneError, SchemaError
from precise_core.warehouse.care import is_readable
from precise_core.warehouse.instants import instant
from precise_core.warehouse.reader import TableReader
from schemas import ITEM_EMBEDDINGS, USER_EMBEDDINGS, Table
from schemas import columns as c

SINCE = "since"  # from which instant on readers had this vector
PUBLICATION = "_publication"  # its place in the history of publications
_NEWEST = "_newest_since"  # since when its vector is
_WHEN = "_at"
_USER, _ITEM, _AT = "_join_user", "_join_item", "_join_at"  # beside whatever the rows call theirs
_OURS = (_USER, _ITEM, _AT, PUBLICATION, _NEWEST)  # there while it joins


@dataclass(frozen=True)
class PublishedVersion:
    """One publication of a task's vectors.

    Attributes:
        since: From when on its vectors were the ones to use; until the next publication's ``since``.
        space: Checkpoints that each went on from the previous one share a space; one from scratch has its own.
    """

    model_version: str
    since: datetime
    space: str


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

    As `consume.join_vectors` with ``version=AS_OF``, which describes the arguments: each row gets the newest vectors of
    the checkpoint that was published at its instant, and null where there were none, or where the row has no instant,
    user or item. Publications up to the last one that cannot be read any more are left out.

    Raises:
        SchemaError: A column is missing, twice there, of another type, or would be overwritten.
    """
    there, needed = ([name.lower() for name in names] for names in (rows.columns, (user, item, at)))
    require_columns(there, needed, (*ADDED, *_OURS))
    for name, kind in ((user, "string"), (item, "string"), (at, "timestamp")):
        found = rows.schema[_written(rows, name)].dataType.simpleString()
        if found not in (kind, "void"):
            raise SchemaError(f"join_vectors: column {name!r} is {found}, {kind} is needed")
    history = readable_publications(warehouse, publication_history(warehouse, task))
    users, items = held_vectors(rows.sparkSession, warehouse, history)
    keys = {
        _USER: _quoted(user).cast("string"),
        _ITEM: _quoted(item).cast("string"),
        _AT: _quoted(at).cast("timestamp"),
    }
    joined = join_as_of(
        rows.withColumns(keys), users, items, published_versions(history), at=_AT, user=_USER, item=_ITEM
    )
    return joined.select(*(_quoted(name) for name in (*rows.columns, *ADDED)))


def _quoted(name: str) -> Column:
    """A column by its whole name, dots and all."""
    return F.col("`" + name.replace("`", "``") + "`")


def _written(rows: DataFrame, name: str) -> str:
    """The column as the frame spells it; to Spark `User` and `user` are one."""
    return next(column for column in rows.columns if column.lower() == name.lower())


def readable_publications(warehouse: str | Path, history: Sequence[Publication]) -> list[Publication]:
    """The publications after the last one whose vectors cannot be read any more; the newest must be readable."""
    kept: list[Publication] = []
    for was in reversed(history):
        if not all(_can_be_read(warehouse, table, was) for table in (USER_EMBEDDINGS, ITEM_EMBEDDINGS)):
            break
        kept.insert(0, was)
    if not kept:
        raise HistoryGoneError(f"the vectors that were published for {history[-1].task!r} are gone; encode and publish")
    return kept


def _can_be_read(warehouse: str | Path, table: Table, was: Publication) -> bool:
    """Whether the versions are in the log, and the files of the checkpoint in them are on disk."""
    path, of_checkpoint = TableReader(warehouse).path(table), f"{c.MODEL_VERSION}={was.model_version}/"
    versions = {was.first[table.name], was.last[table.name]}
    return all(is_readable(path, version, of_checkpoint) for version in versions)


def published_versions(history: Sequence[Publication]) -> list[PublishedVersion]:
    """Model version, first valid instant and vector space of each publication."""
    return [PublishedVersion(was.model_version, was.valid_from, was.space) for was in history]


def held_vectors(
    spark: SparkSession, warehouse: str | Path, history: Sequence[Publication]
) -> tuple[DataFrame, DataFrame]:
    """Every vector of users and of items in these publications, and since when readers had it.

    Users are encoded once a night: their vectors are those of a publication's first version, and count from its
    beginning. Items that are new, or whose text changed, between two nights are in its last version, and count from the
    moment they were computed. The versions between need not be read.
    """
    users, items = [], []
    for place, was in enumerate(history):
        start = instant(was.valid_from)
        first = partial(_slice, spark, warehouse, was, versions=was.first)
        users_then = first(USER_EMBEDDINGS).where(F.col(c.TASK) == was.task)
        users.append(users_then.select(c.USER_ID, start.alias(SINCE), c.EMBEDDING, F.lit(place).alias(PUBLICATION)))
        held = first(ITEM_EMBEDDINGS).select(c.ITEM_ID, start.alias(SINCE), c.EMBEDDING)
        if was.last[ITEM_EMBEDDINGS.name] != was.first[ITEM_EMBEDDINGS.name]:
            later = _slice(spark, warehouse, was, ITEM_EMBEDDINGS, versions=was.last)
            computed = later.where(F.col(c.EMBEDDED_AT) > start)
            held = held.unionByName(computed.select(c.ITEM_ID, F.col(c.EMBEDDED_AT).alias(SINCE), c.EMBEDDING))
        items.append(held.withColumn(PUBLICATION, F.lit(place)))
    return reduce(DataFrame.unionByName, users), reduce(DataFrame.unionByName, items)


def _slice(
    spark: SparkSession, warehouse: str | Path, was: Publication, table: Table, versions: Mapping[str, int]
) -> DataFrame:
    of_version = spark.read.format("delta").option("versionAsOf", versions[table.name])
    return of_version.load(TableReader(warehouse).path(table)).where(F.col(c.MODEL_VERSION) == was.model_version)


def join_as_of(
    rows: DataFrame,
    user_vectors: DataFrame,
    item_vectors: DataFrame,
    versions: Sequence[PublishedVersion],
    *,
    at: str,
    user: str = c.USER_ID,
    item: str = c.ITEM_ID,
) -> DataFrame:
    """As ``join_vectors``, with the vectors as ``held_vectors`` has them.

    Args:
        rows: Anything with the columns ``at``, ``user`` and ``item``.
        user_vectors: user_id, place of a publication in ``versions``, ``since`` and embedding: one row per vector that
            each of them held.
        item_vectors: The same with item_id.
        versions: The publications, oldest first. A row before the first gets its names and no vector.
    """
    places = [(version.since, place) for place, version in enumerate(_in_order(versions))]
    of_row = rows.withColumns(version_at(at, versions)).withColumn(PUBLICATION, _valid(at, places))
    joined = _newest(of_row, user_vectors, c.USER_ID, user, at, c.USER_EMBEDDING)
    joined = _newest(joined, item_vectors, c.ITEM_ID, item, at, c.ITEM_EMBEDDING)
    scored = joined.withColumn(c.PRECISE_SCORE, _dot(F.col(c.USER_EMBEDDING), F.col(c.ITEM_EMBEDDING)))
    return scored.drop(PUBLICATION)


def version_at(at: str, versions: Sequence[PublishedVersion]) -> dict[str, Column]:
    """model_version and vector_space at the instant in ``at``; the first version's before all, null without one."""
    ordered = _in_order(versions)
    return {
        c.MODEL_VERSION: _valid(at, [(version.since, version.model_version) for version in ordered]),
        c.VECTOR_SPACE: _valid(at, [(version.since, version.space) for version in ordered]),
    }


def _dot(left: Column, right: Column) -> Column:
    """Dot product as float, summed in double; null where either vector is."""
    products = F.zip_with(left, right, lambda a, b: a.cast("double") * b.cast("double"))
    return F.aggregate(products, F.lit(0.0), lambda total, product: total + product).cast("float")


def _in_order(versions: Sequence[PublishedVersion]) -> list[PublishedVersion]:
    """By ``since``; DataError where there is no version, or two are of one instant."""
    ordered = sorted(versions, key=lambda version: version.since)
    if not ordered:
        raise DataError("vectors: no published version to join; run jobs/embed_items.py and jobs/embed_users.py first")
    for earlier, later in pairwise(ordered):
        if earlier.since == later.since:
            raise DataError(
                f"vectors: {earlier.model_version} and {later.model_version} are both in use since {later.since}; "
                "one of them must be chosen"
            )
    return ordered


def _valid(at: str, names: Sequence[tuple[datetime, str | int]]) -> Column:
    """The last of ``names`` whose instant is not after the one in column ``at``."""
    chosen: Column = F.when(F.col(at).isNotNull(), F.lit(names[0][1]))
    for since, name in names[1:]:
        chosen = F.when(F.col(at) >= instant(since), F.lit(name)).otherwise(chosen)
    return chosen


def _newest(rows: DataFrame, vectors: DataFrame, key: str, of: str, at: str, into: str) -> DataFrame:
    """Adds the vector with the largest ``since`` that is not after the row's instant.

    It is found without the vectors themselves; then each row is joined with exactly one of them.
    """
    requested = rows.select(F.col(of).alias(key), PUBLICATION, F.col(at).alias(_WHEN)).distinct()
    known = requested.join(vectors.select(key, PUBLICATION, SINCE), on=[key, PUBLICATION], how="inner")
    known = known.where(F.col(SINCE) <= F.col(_WHEN))
    newest = known.groupBy(key, PUBLICATION, _WHEN).agg(F.max(SINCE).alias(_NEWEST))
    newest = newest.select(F.col(key).alias(of), PUBLICATION, F.col(_WHEN).alias(at), _NEWEST)
    vectors = vectors.select(
        F.col(key).alias(of), PUBLICATION, F.col(SINCE).alias(_NEWEST), F.col(c.EMBEDDING).alias(into)
    )
    marked = rows.join(newest, on=[of, PUBLICATION, at], how="left")
    return marked.join(vectors, on=[of, PUBLICATION, _NEWEST], how="left").drop(_NEWEST)
