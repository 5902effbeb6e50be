"""User sequences: the last N events per user and task (S_u and S'_u in section III of the paper).

One shuffle and one sort, whatever the number of tasks: a window per (user, task) would send every event through both
once per task it belongs to.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from precise_core.config.tasks import ALL_TASK, TaskConfig
from precise_core.errors import ConfigError
from precise_core.sequences.chunks import TASK_BITS, USER_HASH, SequencePass
from precise_core.sequences.config import SequencesConfig
from precise_core.tasks import events_before, task_filters
from precise_core.text.vocabulary import with_item_index
from schemas import USER_SEQUENCES
from schemas import columns as c

EVENTS_OF_SEQUENCES = (c.EVENT_ID, c.USER_ID, c.ITEM_ID, c.SCENE, c.ACTION, c.EVENT_TS)

_MAX_TASKS = 63  # bits of a bigint, without its sign
# A user with more events than about the product of the two is cut to the last N before the shuffle.
_SAMPLED = 1024  # one event in so many
_SAMPLES_OF_HEAVY = 512

HISTORY_COLUMNS = f"{c.USER_ID} string, item_indices array<int>, event_ts array<bigint>, {TASK_BITS} array<bigint>"
_COLUMNS = (c.USER_ID, c.TASK, c.ITEM_INDICES, c.SCENES, c.EVENT_TS, c.LENGTH, c.LAST_EVENT_TS)


@dataclass(frozen=True, kw_only=True)
class SequenceInputs:
    """What sequences are built from: two tables at one version each, and the configuration."""

    events: DataFrame
    vocabulary: DataFrame
    tasks: Mapping[str, TaskConfig]
    as_of: datetime
    config: SequencesConfig

    @property
    def visible_events(self) -> DataFrame:
        return events_before(self.events, self.as_of)

    def sequences(self, events: DataFrame, only: Collection[str] | None = None) -> DataFrame:
        return build_user_sequences(events, self.vocabulary, self.tasks, self.as_of, self.config, only)


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
        vocabulary: ``schemas.ITEM_VOCABULARY``; an item it lacks gets the unknown row.
        tasks: Declared tasks; `all` is added.
        only: Names of the tasks to build; every task by default.

    Raises:
        ConfigError: There are more tasks than bits to mark them with.
    """
    max_lengths = {name: config.length_of(name) for name in (ALL_TASK, *tasks) if only is None or name in only}
    chunks = SequencePass(max_lengths)
    clustered = _clustered(events_before(events, as_of), vocabulary, tasks, list(max_lengths), chunks)
    schema = USER_SEQUENCES.spark_schema()
    sequences = clustered.mapInArrow(chunks.sequences, StructType([schema[name] for name in _COLUMNS]))
    return sequences.withColumn(c.BUCKET, user_bucket(config.buckets)).select(*USER_SEQUENCES.column_names)


def user_histories(
    events: DataFrame, vocabulary: DataFrame, tasks: Mapping[str, TaskConfig], as_of: datetime, longest: int
) -> DataFrame:
    """user_id, item_indices, event_ts (microseconds) and task_bits of the last ``longest`` events before ``as_of``.

    One row a user, oldest event first. Bit k of an event: it belongs to the k-th of `all` and the declared tasks.
    """
    chunks = SequencePass({ALL_TASK: longest})
    clustered = _clustered(events_before(events, as_of), vocabulary, tasks, [ALL_TASK, *tasks], chunks)
    return clustered.mapInArrow(chunks.histories, HISTORY_COLUMNS)


def _clustered(
    events: DataFrame, vocabulary: DataFrame, tasks: Mapping[str, TaskConfig], names: list[str], chunks: SequencePass
) -> DataFrame:
    """The events of some tasks as ``SequencePass`` reads them."""
    if len(names) > _MAX_TASKS:
        raise ConfigError(f"tasks: sequences of {len(names)} tasks are configured, at most {_MAX_TASKS} can be")
    rows = events.select(
        F.xxhash64(c.USER_ID).alias(USER_HASH),
        c.USER_ID,
        F.unix_micros(c.EVENT_TS).alias(c.EVENT_TS),
        c.EVENT_ID,
        c.ITEM_ID,
        c.SCENE,
        _task_bits(tasks, names).alias(TASK_BITS),
    )
    needed = _without_old_events_of_heavy_users(rows.where(F.col(TASK_BITS) != 0), chunks)
    indexed = with_item_index(needed, vocabulary).drop(c.ITEM_ID)
    # Sorted by one number: Spark does that by radix, without a comparison.
    return indexed.repartition(USER_HASH).sortWithinPartitions(USER_HASH)


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


def _task_bits(tasks: Mapping[str, TaskConfig], names: list[str]) -> Column:
    bits, none = F.lit(0).cast("bigint"), F.lit(0).cast("bigint")
    filters = task_filters(tasks)
    for place, name in enumerate(names):
        bits = bits.bitwiseOR(F.when(filters[name], F.lit(1 << place).cast("bigint")).otherwise(none))
    return bits


def _without_old_events_of_heavy_users(rows: DataFrame, chunks: SequencePass) -> DataFrame:
    """Users with far more events than any N are cut before the shuffle, where all cores share them.

    They are found in a sample; an overlooked one costs time, not correctness. The sample is drawn by a hash of the row,
    so that the two halves below agree on it.
    """
    is_sampled = F.pmod(F.xxhash64(USER_HASH, c.EVENT_TS), F.lit(_SAMPLED)) == 0
    counts = rows.where(is_sampled).groupBy(USER_HASH).agg(F.count("*").alias(c.COUNT))
    heavy = F.broadcast(counts.where(F.col(c.COUNT) >= _SAMPLES_OF_HEAVY).select(USER_HASH))
    newest = rows.join(heavy, on=USER_HASH, how="left_semi").mapInArrow(chunks.newest, rows.schema)
    return rows.join(heavy, on=USER_HASH, how="left_anti").unionByName(newest)
