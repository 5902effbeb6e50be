"""Vectors as they stood at an instant: an as-of join of rows with user and item vectors.

The publication in force at a row's instant decides, for its user and its item alike, and only what it held is joined:
the newest vector of the user, and of the item, at the instant. What came later, be it a checkpoint or a vector, and
what had gone by then, is never joined: a row that finds nothing has null, it is not filled from another night.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.errors import DataError
from precise_core.warehouse.instants import instant
from schemas import columns as c

SINCE = "since"  # from which instant on readers had this vector
PUBLICATION = "_publication"  # its place in the history of publications

NEWEST = "_newest_since"  # since when its vector is
_AT = "_at"


@dataclass(frozen=True)
class PublishedVersion:
    """One publication of a task's vectors.

    Attributes:
        model_version: The checkpoint.
        since: From when on its vectors were the ones to use; until the next publication's ``since``.
        space: Checkpoints that each went on from the one before share a space; one from scratch has its own.
    """

    model_version: str
    since: datetime
    space: str


def join_vectors(
    rows: DataFrame,
    user_vectors: DataFrame,
    item_vectors: DataFrame,
    versions: Sequence[PublishedVersion],
    *,
    at: str,
    user: str = c.USER_ID,
    item: str = c.ITEM_ID,
) -> DataFrame:
    """``rows`` with user_embedding, item_embedding, precise_score, model_version and vector_space; as many as before.

    Args:
        rows: Anything with a user, an item and an instant.
        user_vectors: user_id, place of a publication in ``versions``, ``since`` and embedding: one row per vector that
            each of them held.
        item_vectors: The same with item_id.
        versions: The publications, oldest first. A row before the first gets its names and no vector.
        at: Column of ``rows`` with the instant.
        user: Column of ``rows`` with the user.
        item: Column of ``rows`` with the item.

    Raises:
        DataError: There is no version, or two of them are of one instant.
    """
    ordered = _in_order(versions)
    places = [(version.since, place) for place, version in enumerate(ordered)]
    of_row = rows.withColumns(in_use(at, ordered)).withColumn(PUBLICATION, _valid(at, places))
    joined = _newest(of_row, user_vectors, c.USER_ID, user, at, c.USER_EMBEDDING)
    joined = _newest(joined, item_vectors, c.ITEM_ID, item, at, c.ITEM_EMBEDDING)
    scored = joined.withColumn(c.PRECISE_SCORE, dot(F.col(c.USER_EMBEDDING), F.col(c.ITEM_EMBEDDING)))
    return scored.drop(PUBLICATION)


def in_use(at: str, versions: Sequence[PublishedVersion]) -> dict[str, Column]:
    """model_version and vector_space at the instant in column ``at``; the first version's before all, null without one.

    Raises:
        DataError: There is no version, or two of them are of one instant.
    """
    ordered = _in_order(versions)
    return {
        c.MODEL_VERSION: _valid(at, [(version.since, version.model_version) for version in ordered]),
        c.VECTOR_SPACE: _valid(at, [(version.since, version.space) for version in ordered]),
    }


def dot(left: Column, right: Column) -> Column:
    """Dot product as float, summed in double; null where either vector is."""
    products = F.zip_with(left, right, lambda a, b: a.cast("double") * b.cast("double"))
    return F.aggregate(products, F.lit(0.0), lambda total, product: total + product).cast("float")


def _in_order(versions: Sequence[PublishedVersion]) -> list[PublishedVersion]:
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
    chosen: Column = F.when(F.col(at).isNotNull(), F.lit(names[0][1]))
    for since, name in names[1:]:
        chosen = F.when(F.col(at) >= instant(since), F.lit(name)).otherwise(chosen)
    return chosen


def _newest(rows: DataFrame, vectors: DataFrame, key: str, of: str, at: str, into: str) -> DataFrame:
    """Adds the vector with the largest ``since`` that is not after the row's instant.

    Which one that is, is found without carrying vectors; then each row meets exactly one of them.
    """
    asked = rows.select(F.col(of).alias(key), PUBLICATION, F.col(at).alias(_AT)).distinct()
    known = asked.join(vectors.select(key, PUBLICATION, SINCE), on=[key, PUBLICATION], how="inner")
    newest = known.where(F.col(SINCE) <= F.col(_AT)).groupBy(key, PUBLICATION, _AT).agg(F.max(SINCE).alias(NEWEST))
    newest = newest.select(F.col(key).alias(of), PUBLICATION, F.col(_AT).alias(at), NEWEST)
    vectors = vectors.select(
        F.col(key).alias(of), PUBLICATION, F.col(SINCE).alias(NEWEST), F.col(c.EMBEDDING).alias(into)
    )
    marked = rows.join(newest, on=[of, PUBLICATION, at], how="left")
    return marked.join(vectors, on=[of, PUBLICATION, NEWEST], how="left").drop(NEWEST)
