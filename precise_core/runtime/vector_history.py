"""Which vectors readers had at which instant: every commit of `published_models`, and the tables it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from pathlib import Path

from deltalake.exceptions import DeltaError
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.errors import HistoryGoneError
from precise_core.features.vectors import SINCE, PublishedVersion
from precise_core.runtime.job import Job
from precise_core.runtime.published import publications
from precise_core.sources.times import instant
from precise_core.spark.care import live_files
from precise_core.training.lineage import vector_space
from schemas import ITEM_EMBEDDINGS, PUBLISHED_MODELS, USER_EMBEDDINGS, Table
from schemas import columns as c

_ORDER = "_order"


@dataclass
class Publication:
    """A checkpoint of a task with the tables as they stood when it was published, and when it was last renewed.

    New items are published every hour under the same checkpoint and the same ``as_of``.

    Attributes:
        model_version: The checkpoint.
        as_of: From when on its vectors are the ones to use.
        first: Delta version by table at the first publication with this ``as_of``.
        last: The same at the last one.
    """

    model_version: str
    as_of: datetime
    first: dict[str, int]
    last: dict[str, int]


@dataclass(frozen=True)
class Vectors:
    """What ``features.vectors.join_vectors`` needs of one task."""

    versions: list[PublishedVersion]
    users: DataFrame
    items: DataFrame


def vector_history(job: Job, task: str) -> Vectors:
    """Every vector of a task that was published and can still be read, and from when on readers had it.

    A user's vector counts from its own `as_of`. An item's counts from the `as_of` it was first published with; one
    that came, or whose text changed, between two nights counts from the moment it was computed.

    Raises:
        MissingTableError: Nothing was ever published.
        HistoryGoneError: No published version of the vectors can be read any more.
    """
    history = publication_history(job, task)
    users = _published(job, USER_EMBEDDINGS, history, c.USER_ID, _user_since)
    items = _published(job, ITEM_EMBEDDINGS, history, c.ITEM_ID, _item_since)
    in_use = [
        PublishedVersion(was.model_version, was.as_of, vector_space(job.checkpoints, was.model_version))
        for was in history
    ]
    return Vectors(in_use, users, items)


def publication_history(job: Job, task: str) -> list[Publication]:
    """The publications of a task in the order of their `as_of`.

    One that is followed by a publication of an earlier or the same `as_of` was taken back (a rollback, or the night
    was run again with another checkpoint): it counts as if it had never been.
    """
    history: list[Publication] = []
    for version in _readable(job, PUBLISHED_MODELS):
        row = publications(job.warehouse, version).get(task)
        if row is None:
            continue
        now = Publication(row[c.MODEL_VERSION], row[c.AS_OF], row["table_versions"], row["table_versions"])
        while history and history[-1].as_of >= now.as_of and not _is_renewed(history[-1], now):
            history.pop()
        if history and _is_renewed(history[-1], now):
            history[-1].last = now.last
        else:
            history.append(now)
    return history


def _is_renewed(publication: Publication, now: Publication) -> bool:
    return (publication.model_version, publication.as_of) == (now.model_version, now.as_of)


def _readable(job: Job, table: Table) -> list[int]:
    """The versions up to the pinned one that can still be read."""
    return [version for version in range(job.pin(table) + 1) if _is_there(job.warehouse.path(table), version)]


def _user_since(_publication: Publication, _is_first: bool) -> Column:
    return F.col(c.AS_OF)


def _item_since(publication: Publication, is_first: bool) -> Column:
    as_of = instant(publication.as_of)
    return as_of if is_first else F.greatest(as_of, c.EMBEDDED_AT)


def _published(
    job: Job, table: Table, history: Sequence[Publication], key: str, since: Callable[[Publication, bool], Column]
) -> DataFrame:
    """key, model_version, `since`, embedding: of each publication what it began with, and what it ended with.

    The hours between need no look of their own: what they added says itself when it was computed.
    """
    frames: list[DataFrame] = []
    for was in history:
        first, last = was.first[table.name], was.last[table.name]
        for version in dict.fromkeys((first, last)):
            if not _is_there(job.warehouse.path(table), version, was.model_version):
                job.say(f"{table.name}: version {version}, published {was.as_of}, is gone; its vectors are not joined")
                continue
            rows = job.warehouse.read(job.spark, table, version).where(F.col(c.MODEL_VERSION) == was.model_version)
            counts_from = since(was, version == first).alias(SINCE)
            frames.append(rows.select(key, c.MODEL_VERSION, counts_from, c.EMBEDDING, F.lit(len(frames)).alias(_ORDER)))
    if not frames:
        raise HistoryGoneError(f"{table.name}: no published version can be read any more; embed and publish again")
    everything = reduce(DataFrame.unionByName, frames)
    if len(frames) == 1:
        return everything.drop(_ORDER)
    # The first one that was there: a vector computed again for the same instant is not filled in afterwards.
    return everything.groupBy(key, c.MODEL_VERSION, SINCE).agg(F.min_by(c.EMBEDDING, _ORDER).alias(c.EMBEDDING))


def _is_there(path: str, version: int, model_version: str = "") -> bool:
    """Whether a version is in the log, and the files of one checkpoint in it are on disk."""
    try:
        names = live_files(path, version)
    except DeltaError:
        return False
    mine = [name for name in names if f"{c.MODEL_VERSION}={model_version}/" in name or not model_version]
    return all((Path(path) / name).is_file() for name in mine)
