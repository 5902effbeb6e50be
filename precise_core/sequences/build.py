"""User sequences: the last N events per user and task (S_u and S'_u in section III of the paper)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.config.tasks import ALL_TASK, TaskConfig
from precise_core.sequences.config import SequencesConfig
from precise_core.sequences.one_pass import last_sequences
from precise_core.tasks import events_before, task_filters
from schemas import USER_SEQUENCES
from schemas import columns as c

EVENTS_OF_SEQUENCES = (c.EVENT_ID, c.USER_ID, c.ITEM_ID, c.SCENE, c.ACTION, c.EVENT_TS)


def build_user_sequences(
    events: DataFrame,
    vocabulary: DataFrame,
    tasks: Mapping[str, TaskConfig],
    as_of: datetime,
    config: SequencesConfig,
    only: Collection[str] | None = None,
) -> DataFrame:
    """``schemas.USER_SEQUENCES``: the last N events strictly before ``as_of``, oldest first.

    Ties in time are broken by event_id. Memory per user is bounded by N, however many events the user has.

    Args:
        events: ``schemas.EVENTS``.
        vocabulary: ``schemas.ITEM_VOCABULARY``; an item it lacks gets the unknown row.
        tasks: Declared tasks; `all` is added.
        as_of: The instant up to which the sequences know the world, exclusive.
        config: N of every task, and the number of buckets.
        only: Names of the tasks wanted; every task by default.
    """
    names = [name for name in (ALL_TASK, *tasks) if only is None or name in only]
    max_lengths = {name: config.length_of(name) for name in names}
    sequences = last_sequences(events_before(events, as_of), vocabulary, tasks, max_lengths)
    return sequences.withColumn(c.BUCKET, user_bucket(config.buckets)).select(*USER_SEQUENCES.column_names)


def events_per_sequence(
    events: DataFrame, tasks: Mapping[str, TaskConfig], only: Collection[str] | None = None
) -> DataFrame:
    """user_id, task and the ``count`` of the user's events that belong to the task."""
    filters = task_filters(tasks, only)
    # A column per task: a row per event and task would be most of the time of a full build.
    counts = [F.count_if(is_task).alias(f"count_{place}") for place, is_task in enumerate(filters.values())]
    by_user = events.groupBy(c.USER_ID).agg(*counts)
    pairs = [
        F.struct(F.lit(name).alias(c.TASK), F.col(f"count_{place}").alias(c.COUNT))
        for place, name in enumerate(filters)
    ]
    return by_user.select(c.USER_ID, F.inline(F.array(*pairs))).where(F.col(c.COUNT) > 0)


def length_limit(config: SequencesConfig) -> Column:
    """N of the row's task."""
    limit = F.lit(config.max_length)
    for task, length in config.max_lengths.items():
        limit = F.when(F.col(c.TASK) == task, length).otherwise(limit)
    return limit


def user_bucket(buckets: int) -> Column:
    """The partition of a user, the same every night."""
    return F.pmod(F.xxhash64(c.USER_ID), F.lit(buckets)).cast("int")
