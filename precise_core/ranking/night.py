"""The impressions and ranking features of a warehouse: which ones are joined, trained on and tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.consume.join_spark import held_vectors, in_use, still_there
from precise_core.consume.publications import publication_history
from precise_core.errors import NothingToLearnError
from precise_core.ranking.features import build_ranking_features
from precise_core.run.job import Job
from precise_core.warehouse.instants import instant
from schemas import EVENTS, IMPRESSIONS, ITEMS, PUBLISHED_MODELS, RANKING_FEATURES
from schemas import columns as c


class RankingFeatures:
    """Tonight's rows of `ranking_features` for one task.

    Impressions since the oldest publication that can still be read are joined anew; rows of earlier ones stay as they
    were joined when their vectors were there.

    Args:
        job: Reads and writes.
        task: Whose vectors.
    """

    def __init__(self, job: Job, task: str) -> None:
        self._job, self._task = job, task
        published = publication_history(job.folder, task, job.pin(PUBLISHED_MODELS))
        self._history = still_there(job.folder, published)

    @property
    def rows(self) -> DataFrame:
        """The whole content of the table for the task."""
        users, items = held_vectors(self._job.spark, self._job.folder, self._history)
        return build_ranking_features(
            self._joined_anew,
            self._job.read(EVENTS),
            self._job.read(ITEMS),
            users,
            items,
            task=self._task,
            versions=in_use(self._history),
            config=self._job.settings.ranking_features,
            earlier=self._earlier,
        )

    def count(self) -> int:
        """How many rows there have to be."""
        return self._joined_anew.count() + (self._earlier.count() if self._earlier is not None else 0)

    @property
    def _joined_anew(self) -> DataFrame:
        return self._shown.where(F.col(c.IMPRESSION_TS) >= instant(self._history[0].valid_from))

    @cached_property
    def _shown(self) -> DataFrame:
        """The impressions of the configured days."""
        impressions, days = self._job.read(IMPRESSIONS), self._job.settings.ranking_features.days
        newest = impressions.agg((F.max(c.IMPRESSION_TS) - F.expr(f"INTERVAL {days} DAYS")).alias("oldest"))
        return impressions.join(F.broadcast(newest), on=F.col(c.IMPRESSION_TS) >= F.col("oldest"), how="left_semi")

    @cached_property
    def _earlier(self) -> DataFrame | None:
        """Rows that the table has from before the oldest publication."""
        stored = self._job.read_optional(RANKING_FEATURES)
        if stored is None:
            return None
        is_earlier = F.col(c.IMPRESSION_TS) < instant(self._history[0].valid_from)
        of_task = stored.where((F.col(c.TASK) == self._task) & is_earlier)
        return of_task.join(self._shown.select(c.IMPRESSION_ID), on=c.IMPRESSION_ID, how="left_semi")


@dataclass(frozen=True)
class RankingSlice:
    """Rows of `ranking_features` that one ranking model may see together.

    Attributes:
        task: Whose vectors.
        space: The vector space; vectors of another one would be noise to the model.
        model_versions: The checkpoints in it.
    """

    task: str
    space: str
    model_versions: tuple[str, ...]


def tell_of_missing_vectors(job: Job, task: str) -> None:
    """Say and write down how many impressions of each checkpoint have no user vector, no item vector, no pair."""
    counted = job.read_written(RANKING_FEATURES).where(F.col(c.TASK) == task).groupBy(c.MODEL_VERSION)
    missing = {"pair": c.PRECISE_SCORE, "user": c.USER_EMBEDDING, "item": c.ITEM_EMBEDDING}
    counts = [F.count_if(F.col(column).isNull()).alias(name) for name, column in missing.items()]
    found = counted.agg(F.count("*").alias("rows"), *counts).orderBy(c.MODEL_VERSION).collect()
    for row in found:
        job.say(
            f"{task}, {row[c.MODEL_VERSION]}: {row['pair']:,} of {row['rows']:,} impressions have no pair of vectors "
            f"(no user vector {row['user']:,}, no item vector {row['item']:,})"
        )
    rows = max(sum(row["rows"] for row in found), 1)
    for metric, name in (("vectors", "pair"), ("user_vector", "user"), ("item_vector", "item")):
        job.metrics[f"share_without_{metric}/{task}"] = sum(row[name] for row in found) / rows


def ranking_slice(job: Job, task: str, space: str | None = None) -> RankingSlice:
    """The rows to train and to test a task's ranking model on: those in ``space``, by default the newest impression's.

    Raises:
        NothingToLearnError: No impression was joined for the task, or none in the space.
    """
    columns = [c.TASK, c.VECTOR_SPACE, c.MODEL_VERSION, c.IMPRESSION_TS]
    rows = job.warehouse.read_arrow(RANKING_FEATURES, job.pin(RANKING_FEATURES), columns)
    groups = rows.filter(pc.equal(rows[c.TASK], task)).group_by([c.VECTOR_SPACE, c.MODEL_VERSION])
    newest = groups.aggregate([(c.IMPRESSION_TS, "max")]).sort_by(f"{c.IMPRESSION_TS}_max").to_pylist()
    if not newest:
        raise NothingToLearnError(f"{task}: no impression lies at or after the as_of of a published model")
    space = space or newest[-1][c.VECTOR_SPACE]
    versions = tuple(row[c.MODEL_VERSION] for row in newest if row[c.VECTOR_SPACE] == space)
    if not versions:
        there = sorted({row[c.VECTOR_SPACE] for row in newest})
        raise NothingToLearnError(f"{task}: no impression has vectors of the space {space!r}, but of {there}")
    return RankingSlice(task, space, versions)


def is_in_slice(of: RankingSlice) -> Column:
    """Condition on `ranking_features` in Spark."""
    is_in_space = F.col(c.MODEL_VERSION).isin(*of.model_versions) & (F.col(c.VECTOR_SPACE) == of.space)
    return is_in_space & (F.col(c.TASK) == of.task)


def read_slice(job: Job, of: RankingSlice, columns: Sequence[str] | None = None) -> pa.Table:
    """The slice's rows."""
    names = list(dict.fromkeys([*(columns or RANKING_FEATURES.column_names), c.TASK, c.VECTOR_SPACE]))
    rows = job.warehouse.read_arrow(
        RANKING_FEATURES, job.pin(RANKING_FEATURES), names, {c.MODEL_VERSION: of.model_versions}
    )
    return rows.filter(pc.and_(pc.equal(rows[c.TASK], of.task), pc.equal(rows[c.VECTOR_SPACE], of.space)))
