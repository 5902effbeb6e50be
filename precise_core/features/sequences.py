"""User sequences: the last N events per user and task (S_u and S'_u in section III of the paper)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from precise_core.features.config import SequencesConfig, TaskConfig
from precise_core.features.tasks import events_before, task_events
from precise_core.features.vocabulary import with_item_index
from schemas import USER_SEQUENCES
from schemas import columns as c

EVENTS_OF_SEQUENCES = (c.EVENT_ID, c.USER_ID, c.ITEM_ID, c.SCENE, c.ACTION, c.EVENT_TS)

_PLACE = "place"
_ENTRIES = "entries"


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
    visible = events_before(events, as_of).select(*EVENTS_OF_SEQUENCES)
    recent = _last_events(task_events(visible, tasks, only), config)
    entry = F.struct(c.EVENT_TS, c.EVENT_ID, c.ITEM_INDEX, c.SCENE)
    # collect_list promises no order; the sort is bounded by N.
    entries = F.sort_array(F.collect_list(entry)).alias(_ENTRIES)
    sequences = with_item_index(recent, vocabulary).groupBy(c.USER_ID, c.TASK).agg(entries)
    columns = {
        c.ITEM_INDICES: F.col(_ENTRIES)[c.ITEM_INDEX],
        c.SCENES: F.col(_ENTRIES)[c.SCENE],
        c.EVENT_TS: F.col(_ENTRIES)[c.EVENT_TS],
        c.LENGTH: F.size(_ENTRIES),
        c.LAST_EVENT_TS: F.element_at(_ENTRIES, -1)[c.EVENT_TS],
        c.BUCKET: user_bucket(config.buckets),
    }
    return sequences.select(*[columns.get(name, F.col(name)).alias(name) for name in USER_SEQUENCES.column_names])


def events_per_sequence(
    events: DataFrame, tasks: Mapping[str, TaskConfig], only: Collection[str] | None = None
) -> DataFrame:
    """user_id, task and the ``count`` of the user's events that belong to the task."""
    narrow = events.select(c.USER_ID, c.SCENE, c.ACTION)
    return task_events(narrow, tasks, only).groupBy(c.USER_ID, c.TASK).agg(F.count("*").alias(c.COUNT))


def length_limit(config: SequencesConfig) -> Column:
    """N of the row's task."""
    limit = F.lit(config.max_length)
    for task, length in config.max_lengths.items():
        limit = F.when(F.col(c.TASK) == task, length).otherwise(limit)
    return limit


def user_bucket(buckets: int) -> Column:
    """The partition of a user, the same every night."""
    return F.pmod(F.xxhash64(c.USER_ID), F.lit(buckets)).cast("int")


def _last_events(events: DataFrame, config: SequencesConfig) -> DataFrame:
    # A filter directly on row_number lets Spark drop older events before the shuffle (SPARK-37099).
    newest_first = Window.partitionBy(c.USER_ID, c.TASK).orderBy(F.desc(c.EVENT_TS), F.desc(c.EVENT_ID))
    placed = events.withColumn(_PLACE, F.row_number().over(newest_first))
    is_kept = F.col(_PLACE) <= config.max_length
    if config.max_lengths:
        is_kept = is_kept & (F.col(_PLACE) <= length_limit(config))
    return placed.where(is_kept).drop(_PLACE)
