"""The candidates of one task: those of the model, and the fallback of users that it has no vector for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.publication.night import published_index, published_vectors
from precise_core.recall.eligibility import excluded_items
from precise_core.recall.popular import known_users, popular_candidates, popular_items
from precise_core.recall.spark import recall_candidates
from precise_core.run.job import Job
from precise_core.warehouse.instants import instant
from schemas import (
    EVENTS,
    IMPRESSIONS,
    ITEM_VOCABULARY,
    ITEMS,
    RECALL_CANDIDATES,
    USER_EMBEDDINGS,
    USER_SEQUENCES,
)
from schemas import columns as c


class UserCounts(NamedTuple):
    """What became of the users of one task."""

    users: int
    served: int
    empty: int


def recall_task(job: Job, task: str, version: str) -> UserCounts:
    """Make the candidates of a task, from its published vectors and index, the checkpoint's slice of the table."""
    folder = published_index(job, task)  # a damaged index is found before Spark has anything to do
    config, sequences = job.settings.recall, job.read(USER_SEQUENCES)
    vectors = published_vectors(job, task, USER_EMBEDDINGS)
    shown = job.read_optional(IMPRESSIONS)
    if shown is not None:
        shown = shown.where(F.col(c.IMPRESSION_TS) < instant(job.settings.as_of))
    known = known_users(sequences, vectors, shown).persist()
    excluded = _excluded(job, task).persist()
    rows = excluded.toPandas()[c.ITEM_INDEX].to_numpy(np.int64)
    found = recall_candidates(job.spark, vectors, sequences, known, folder, version, rows, config)
    others = known.join(vectors, on=c.USER_ID, how="left_anti").persist()
    users = vectors.select(c.USER_ID)
    if config.popular:
        found = found.unionByName(_fallback(job, task, version, others, excluded))
        users = users.unionByName(others.select(c.USER_ID))
    job.write(RECALL_CANDIDATES, found, replace={c.MODEL_VERSION: version})
    written = job.read_written(RECALL_CANDIDATES).where(F.col(c.MODEL_VERSION) == version)
    served = written.where(F.col(c.RANK) == 1).select(c.USER_ID).distinct()
    counts = UserCounts(users.count(), served.count(), users.join(served, on=c.USER_ID, how="left_anti").count())
    job.say(f"{task}: {len(rows):,} items are deleted or belong to other scenes only and were left out")
    if config.popular:
        number = others.count()
        job.say(f"{task}: {number:,} users without a vector get what is popular")
        job.metrics[f"users_on_fallback/{task}"] = float(number)
    for frame in (known, excluded, others):
        frame.unpersist()
    return counts


def _excluded(job: Job, task: str) -> DataFrame:
    catalog = (job.read(EVENTS), job.read(ITEMS), job.read(ITEM_VOCABULARY))
    return excluded_items(*catalog, job.settings.tasks, job.settings.as_of, task)


def _fallback(job: Job, task: str, version: str, users: DataFrame, excluded: DataFrame) -> DataFrame:
    settings, config = job.settings, job.settings.recall
    longest = settings.sequences.max_length if config.filter_seen else 0
    if not config.filter_seen:
        users = users.withColumn(c.ITEM_INDICES, F.array().cast("array<int>"))
    popular = popular_items(
        job.read(EVENTS),
        job.read(ITEM_VOCABULARY),
        excluded,
        settings.tasks.get(task),
        settings.as_of,
        config.popular_days,
        config.k + longest,
    )
    return popular_candidates(users, popular, config.k, task, version, settings.as_of)
