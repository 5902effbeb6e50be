"""Events to the last N per user and task with one shuffle and one sort, whatever the number of tasks.

A window per (user, task) would send every event through a shuffle and a sort once per task it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from precise_core.config.tasks import TaskConfig
from precise_core.errors import ConfigError
from precise_core.sequences.chunks import TASK_BITS, USER_HASH, SequencePass
from precise_core.tasks import task_filters
from precise_core.text.vocabulary import with_item_index
from schemas import USER_SEQUENCES
from schemas import columns as c

_MAX_TASKS = 63  # bits of a bigint, without its sign
# A user with more events than about the product of the two is cut to the last N before the shuffle.
_SAMPLED = 1024  # one event in so many
_SAMPLES_OF_HEAVY = 512

_COLUMNS = (c.USER_ID, c.TASK, c.ITEM_INDICES, c.SCENES, c.EVENT_TS, c.LENGTH, c.LAST_EVENT_TS)


def last_sequences(
    events: DataFrame, vocabulary: DataFrame, tasks: Mapping[str, TaskConfig], max_lengths: Mapping[str, int]
) -> DataFrame:
    """user_id, task, item_indices, scenes, event_ts, length and last_event_ts, as in ``schemas.USER_SEQUENCES``.

    Oldest event first, ties in time broken by event_id. An item that ``vocabulary`` lacks gets the unknown row.

    Args:
        events: Those of ``schemas.EVENTS`` that the sequences may see.
        vocabulary: ``schemas.ITEM_VOCABULARY``.
        tasks: Declared tasks.
        max_lengths: Task -> N, for the tasks wanted; `all` among them where it is wanted.

    Raises:
        ConfigError: There are more tasks than bits to mark them with.
    """
    if len(max_lengths) > _MAX_TASKS:
        raise ConfigError(f"tasks: sequences of {len(max_lengths)} tasks are asked for, at most {_MAX_TASKS} can be")
    rows = events.select(
        F.xxhash64(c.USER_ID).alias(USER_HASH),
        c.USER_ID,
        F.unix_micros(c.EVENT_TS).alias(c.EVENT_TS),
        c.EVENT_ID,
        c.ITEM_ID,
        c.SCENE,
        _task_bits(tasks, list(max_lengths)).alias(TASK_BITS),
    )
    chunks = SequencePass(max_lengths)
    wanted = _without_old_events_of_heavy_users(rows.where(F.col(TASK_BITS) != 0), chunks)
    indexed = with_item_index(wanted, vocabulary).drop(c.ITEM_ID)
    # Sorted by one number: Spark does that by radix, without a comparison.
    clustered = indexed.repartition(USER_HASH).sortWithinPartitions(USER_HASH)
    schema = USER_SEQUENCES.spark_schema()
    return clustered.mapInArrow(chunks.sequences, StructType([schema[name] for name in _COLUMNS]))


def _task_bits(tasks: Mapping[str, TaskConfig], names: list[str]) -> Column:
    bits = F.lit(0).cast("bigint")
    filters = task_filters(tasks)
    for place, name in enumerate(names):
        bits = bits.bitwiseOR(
            F.when(filters[name], F.lit(1 << place).cast("bigint")).otherwise(F.lit(0).cast("bigint"))
        )
    return bits


def _without_old_events_of_heavy_users(rows: DataFrame, chunks: SequencePass) -> DataFrame:
    """Users with far more events than any N are cut before the shuffle, where all cores share them.

    Who they are is read off a sample; whoever is overlooked costs time and not correctness. The sample is drawn by a
    hash of the row, so that the two halves below agree on it.
    """
    is_sampled = F.pmod(F.xxhash64(USER_HASH, c.EVENT_TS), F.lit(_SAMPLED)) == 0
    counts = rows.where(is_sampled).groupBy(USER_HASH).agg(F.count("*").alias(c.COUNT))
    heavy = F.broadcast(counts.where(F.col(c.COUNT) >= _SAMPLES_OF_HEAVY).select(USER_HASH))
    newest = rows.join(heavy, on=USER_HASH, how="left_semi").mapInArrow(chunks.newest, rows.schema)
    return rows.join(heavy, on=USER_HASH, how="left_anti").unionByName(newest)
