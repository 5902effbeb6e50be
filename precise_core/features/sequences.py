"""User sequences: the last N events per user and task (S_u and S'_u in section III of the paper)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from precise_core.errors import ConfigError
from precise_core.features.config import ALL_TASK, SequencesConfig, TaskConfig
from precise_core.features.sequence_pass import MAX_TASKS, TASK_BITS, USER_HASH, SequencePass
from precise_core.features.tasks import events_before, task_events, task_filter
from precise_core.features.vocabulary import with_item_index
from precise_core.sources.times import instant
from schemas import USER_SEQUENCES
from schemas import columns as c


@dataclass(frozen=True, kw_only=True)
class SequenceBalance:
    """What became of the events, each counted once per task it belongs to.

    ``kept`` is counted in the sequences and ``trimmed`` in the events, so ``events`` = ``kept`` + ``trimmed`` is a
    check and not a definition.
    """

    events: int
    kept: int
    trimmed: int


def build_user_sequences(
    events: DataFrame,
    vocabulary: DataFrame,
    tasks: Mapping[str, TaskConfig],
    as_of: datetime,
    config: SequencesConfig,
) -> DataFrame:
    """``schemas.USER_SEQUENCES``: the last ``max_length`` events strictly before ``as_of``, oldest first.

    Ties in time are broken by event_id. Memory per user is bounded by ``max_length``, however many events the user has.
    """
    rows = with_item_index(tagged_events(events_before(events, as_of), tasks), vocabulary)
    sequences = last_sequences(rows, {task: config.max_length for task in (ALL_TASK, *tasks)})
    added = {c.AS_OF: instant(as_of), c.BUCKET: user_bucket(config.buckets)}
    return sequences.select(*[added.get(name, F.col(name)).alias(name) for name in USER_SEQUENCES.column_names])


def tagged_events(events: DataFrame, tasks: Mapping[str, TaskConfig]) -> DataFrame:
    """The columns that a sequence is made of, and ``task_bits``: bit 0 for `all`, bit k for the k-th of ``tasks``.

    Raises:
        ConfigError: There are more tasks than bits.
    """
    if len(tasks) >= MAX_TASKS:
        raise ConfigError(f"tasks: {len(tasks)} are configured, at most {MAX_TASKS - 1} are possible")
    bits = F.lit(1).cast("bigint")
    for place, task in enumerate(tasks.values(), start=1):
        bits = bits.bitwiseOR(F.when(task_filter(task), F.lit(1 << place)).otherwise(0).cast("bigint"))
    return events.select(c.EVENT_ID, c.USER_ID, c.ITEM_ID, c.SCENE, c.EVENT_TS, bits.alias(TASK_BITS))


def last_sequences(rows: DataFrame, max_lengths: Mapping[str, int]) -> DataFrame:
    """One row per user and task of ``max_lengths``: user_id, task, the three arrays, length, last_event_ts.

    Args:
        rows: ``tagged_events`` with item_index; bit k of task_bits is the k-th task of ``max_lengths``.
        max_lengths: Task -> N.
    """
    by_user = rows.select(
        F.xxhash64(c.USER_ID).alias(USER_HASH),
        c.USER_ID,
        F.unix_micros(c.EVENT_TS).alias(c.EVENT_TS),
        c.EVENT_ID,
        c.ITEM_INDEX,
        c.SCENE,
        TASK_BITS,
    )
    clustered = by_user.repartition(USER_HASH).sortWithinPartitions(USER_HASH)
    return clustered.mapInArrow(SequencePass(max_lengths).sequences, _sequence_schema())


def _sequence_schema() -> StructType:
    names = (c.USER_ID, c.TASK, c.ITEM_INDICES, c.SCENES, c.EVENT_TS, c.LENGTH, c.LAST_EVENT_TS)
    return StructType([USER_SEQUENCES.spark_schema()[name] for name in names])


def sequence_balance(
    events: DataFrame,
    sequences: DataFrame,
    tasks: Mapping[str, TaskConfig],
    as_of: datetime,
    config: SequencesConfig,
) -> SequenceBalance:
    """Events before ``as_of``, those in the built ``sequences``, and those beyond ``max_length``; counts, no sort."""
    counts = task_events(_narrow(events_before(events, as_of)), tasks).groupBy(c.USER_ID, c.TASK).count()
    trimmed = F.greatest(F.col(c.COUNT) - config.max_length, F.lit(0))
    before = counts.agg(F.sum(c.COUNT).alias("events"), F.sum(trimmed).alias("trimmed")).collect()[0]
    kept = sequences.agg(F.sum(c.LENGTH).alias("kept")).collect()[0]["kept"]
    return SequenceBalance(events=before["events"] or 0, kept=kept or 0, trimmed=before["trimmed"] or 0)


def user_bucket(buckets: int) -> Column:
    """The partition of a user, the same every night."""
    return F.pmod(F.xxhash64(c.USER_ID), F.lit(buckets)).cast("int")


def _narrow(events: DataFrame) -> DataFrame:
    return events.select(c.EVENT_ID, c.USER_ID, c.ITEM_ID, c.SCENE, c.ACTION, c.EVENT_TS)
