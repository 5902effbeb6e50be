"""Point-in-time join of a team's own rows with published vectors, in Spark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from deltalake.exceptions import DeltaError
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.consume.publications import Publication, publication_history
from precise_core.consume.tables import folder
from precise_core.errors import HistoryGoneError, SchemaError
from precise_core.features import vectors
from precise_core.features.vectors import SINCE, PublishedVersion
from precise_core.sources.times import instant
from precise_core.spark.care import live_files
from schemas import ITEM_EMBEDDINGS, USER_EMBEDDINGS, Table
from schemas import columns as c

_ORDER = "_order"


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
    published at its instant, and null where there were none.

    Args:
        rows: A user, an item and a timestamp per row.
        warehouse: The folder named `warehouse` in the configuration.
        at: Column with the instant that a row must not look beyond.
        task: Whose user vectors.
        user: Column with the user's id.
        item: Column with the item's id.

    Raises:
        SchemaError: A column is missing or of another type.
        MissingTableError: The folder is no warehouse, or nothing is published yet.
        CheckpointError: Nothing was ever published for the task.
        HistoryGoneError: No published version of the vectors can be read any more.
    """
    found = {field.name: field.dataType.simpleString() for field in rows.schema}
    for name, kind in ((user, "string"), (item, "string"), (at, "timestamp")):
        if found.get(name) != kind:
            raise SchemaError(f"join_vectors: column {name!r} is {found.get(name, 'missing')}, {kind} is needed")
    history = still_there(warehouse, publication_history(warehouse, task))
    users, items = published_vectors(rows.sparkSession, warehouse, history)
    return vectors.join_vectors(rows, users, items, in_use(history), at=at, user=user, item=item)


def still_there(warehouse: str | Path, history: Sequence[Publication]) -> list[Publication]:
    """The publications since the last one whose vectors cannot be read any more.

    Raises:
        HistoryGoneError: Not even the newest can be read.
    """
    kept: list[Publication] = []
    for was in reversed(history):
        if not all(_is_there(Path(warehouse), table, was) for table in (USER_EMBEDDINGS, ITEM_EMBEDDINGS)):
            break
        kept.insert(0, was)
    if not kept:
        raise HistoryGoneError(f"the vectors that were published for {history[-1].task!r} are gone; encode and publish")
    return kept


def in_use(history: Sequence[Publication]) -> list[PublishedVersion]:
    """Which checkpoint was to be used from when on."""
    return [PublishedVersion(was.model_version, was.as_of, was.space) for was in history]


def published_vectors(
    spark: SparkSession, warehouse: str | Path, history: Sequence[Publication]
) -> tuple[DataFrame, DataFrame]:
    """Every vector of users and of items in some publications (``still_there``), and since when readers had it.

    A user's vector counts from its own `as_of`. An item's counts from the `as_of` it was first published with; one
    that came, or whose text changed, between two nights counts from the moment it was computed.
    """
    users = _Published(spark, Path(warehouse), USER_EMBEDDINGS, c.USER_ID, lambda *_: F.col(c.AS_OF))
    items = _Published(spark, Path(warehouse), ITEM_EMBEDDINGS, c.ITEM_ID, _item_since)
    return users.vectors(history), items.vectors(history)


def _item_since(publication: Publication, is_first: bool) -> Column:
    as_of = instant(publication.as_of)
    return as_of if is_first else F.greatest(as_of, c.EMBEDDED_AT)


@dataclass(frozen=True)
class _Published:
    """One table of vectors, over all its publications."""

    spark: SparkSession
    warehouse: Path
    table: Table
    key: str
    since: Callable[[Publication, bool], Column]

    def vectors(self, history: Sequence[Publication]) -> DataFrame:
        """key, model_version, `since`, embedding.

        Of each publication what it began with and what it ended with: the hours between need no look of their own,
        since what they added says itself when it was computed.
        """
        frames: list[DataFrame] = []
        for was in history:
            first, last = was.first[self.table.name], was.last[self.table.name]
            for version in dict.fromkeys((first, last)):
                frames.append(self._slice(was, version, version == first).withColumn(_ORDER, F.lit(len(frames))))
        everything = reduce(DataFrame.unionByName, frames)
        if len(frames) == 1:
            return everything.drop(_ORDER)
        # The first one that was there: a vector computed again for the same instant is not filled in afterwards.
        first_written = F.min_by(c.EMBEDDING, _ORDER).alias(c.EMBEDDING)
        return everything.groupBy(self.key, c.MODEL_VERSION, SINCE).agg(first_written)

    def _slice(self, was: Publication, version: int, is_first: bool) -> DataFrame:
        rows = self.spark.read.format("delta").option("versionAsOf", version).load(folder(self.warehouse, self.table))
        rows = rows.where(F.col(c.MODEL_VERSION) == was.model_version)
        return rows.select(self.key, c.MODEL_VERSION, self.since(was, is_first).alias(SINCE), c.EMBEDDING)


def _is_there(warehouse: Path, table: Table, was: Publication) -> bool:
    """Whether the versions are in the log, and the files of the checkpoint in them are on disk."""
    path, of_checkpoint = Path(folder(warehouse, table)), f"{c.MODEL_VERSION}={was.model_version}/"
    try:
        names = {name for version in (was.first, was.last) for name in live_files(str(path), version[table.name])}
    except DeltaError:
        return False
    return all((path / name).is_file() for name in names if of_checkpoint in name)
