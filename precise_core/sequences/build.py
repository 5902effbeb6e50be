"""User sequences: the last N events per user and task (S_u and S'_u in section III of the paper).

One shuffle, whatever the number of tasks, and of a few large rows: a window per (user, task) would send every event
through a shuffle and a sort once per task it belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from precise_core.config.tasks import ALL_TASK, TaskConfig
from precise_core.errors import ConfigError
from precise_core.sequences.chunks import TASK_BITS, SequencePass
from precise_core.sequences.config import SequencesConfig
from precise_core.sequences.event_files import EVENTS_OF_SEQUENCES, EventFiles
from precise_core.sequences.exchange import PART, PIECE_COLUMNS, EventSplit, WholePart, WholeParts, clustered
from precise_core.tasks import events_before, task_filters
from precise_core.text.vocabulary import with_item_index
from precise_core.warehouse.spark_hash import keys_of_partitions
from schemas import USER_SEQUENCES
from schemas import columns as c

HISTORY_COLUMNS = f"{c.USER_ID} string, item_indices array<int>, event_ts array<bigint>, {TASK_BITS} array<bigint>"

_MAX_TASKS = 63  # bits of a bigint, without its sign
_PART_ROWS = 1_000_000  # of a part, where the number of rows is known
_TASK_ROWS = 250_000  # that are worth a task of their own

Batches = Iterable[pa.RecordBatch]
Events = DataFrame | EventFiles


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
    filters = {name: task for name, task in {ALL_TASK: None, **tasks}.items() if only is None or name in only}
    chunks = SequencePass({name: config.length_of(name) for name in filters})
    make = partial(_sequence_rows, chunks, config.buckets)
    rows = _indexed(events, vocabulary, as_of)
    return of_whole_users(rows, filters, as_of, chunks, make, USER_SEQUENCES.spark_schema(), buckets=config.buckets)


def user_histories(
    events: DataFrame, vocabulary: DataFrame, tasks: Mapping[str, TaskConfig], as_of: datetime, longest: int
) -> DataFrame:
    """user_id, item_indices, event_ts (microseconds) and task_bits of the last ``longest`` events before ``as_of``.

    One row a user, oldest event first. Bit k of an event: it belongs to the k-th of `all` and the declared tasks.
    """
    chunks = SequencePass({ALL_TASK: longest})
    make = partial(_history_rows, chunks)
    rows = _indexed(events, vocabulary, as_of)
    return of_whole_users(rows, {ALL_TASK: None, **tasks}, as_of, chunks, make, HISTORY_COLUMNS)


def _indexed(events: DataFrame, vocabulary: DataFrame, as_of: datetime) -> DataFrame:
    rows = events_before(events, as_of).select(*EVENTS_OF_SEQUENCES)
    return with_item_index(rows, vocabulary).drop(c.ITEM_ID)


def of_whole_users(
    events: Events,
    filters: Mapping[str, TaskConfig | None],
    as_of: datetime,
    chunks: SequencePass,
    make: Callable[[WholePart], Batches],
    schema: StructType | str,
    *,
    buckets: int = 1,
) -> DataFrame:
    """What ``make`` makes of the events of whole users before ``as_of``.

    Args:
        events: Files that tasks read themselves, which costs less; or rows before ``as_of``, with item_index.
        filters: Task -> filter, None for every event.
        chunks: Of these tasks, or of every event.
        buckets: Each part that ``make`` is given lies in one of them, its number modulo theirs.
    """
    if len(filters) > _MAX_TASKS:
        raise ConfigError(f"tasks: sequences of {len(filters)} tasks are configured, at most {_MAX_TASKS} can be")
    parts, tasks = _number_of_parts(events, buckets), _number_of_tasks(events)
    vocabulary = events.vocabulary if isinstance(events, EventFiles) else None
    split, whole = EventSplit(vocabulary, filters, chunks, parts), WholeParts(parts)
    source, read = _source(events, as_of)

    def pieces(batches: Batches) -> Iterator[pa.RecordBatch]:
        return split.pieces(read(batches))

    def of_parts(batches: Batches) -> Iterator[pa.RecordBatch]:
        for part in whole.of(batches):
            yield from make(part)

    if tasks == 1 and isinstance(events, EventFiles):  # nothing to send anywhere
        return source.mapInArrow(lambda batches: of_parts(clustered(pieces(batches))), schema)
    tasks = min(tasks, parts)
    keys = F.array(*map(F.lit, keys_of_partitions(tasks)))
    together = source.mapInArrow(pieces, PIECE_COLUMNS).repartition(tasks, keys[F.col(PART) % tasks])
    return together.sortWithinPartitions(PART).mapInArrow(of_parts, schema)


def _source(events: Events, as_of: datetime) -> tuple[DataFrame, Callable[[Batches], Batches]]:
    """A frame, and what makes the events before ``as_of`` of its rows."""
    if isinstance(events, DataFrame):
        return events, lambda batches: batches
    numbers, shares = events.frame(SparkSession.active())
    return numbers, lambda batches: shares.events(batches, as_of)


def _number_of_parts(events: Events, buckets: int) -> int:
    """A multiple of ``buckets``, so that a part lies in one of them."""
    least = math.ceil(events.rows / _PART_ROWS) if isinstance(events, EventFiles) else _shuffle_partitions()
    return buckets * max(1, math.ceil(least / buckets))


def _number_of_tasks(events: Events) -> int:
    return math.ceil(events.rows / _TASK_ROWS) or 1 if isinstance(events, EventFiles) else _shuffle_partitions()


def _shuffle_partitions() -> int:
    return int(str(SparkSession.active().conf.get("spark.sql.shuffle.partitions")))


def _sequence_rows(chunks: SequencePass, buckets: int, part: WholePart) -> Iterator[pa.RecordBatch]:
    """Rows of ``schemas.USER_SEQUENCES``; the part of a user modulo the buckets is the user's bucket."""
    for rows in part.portions:
        for found in chunks.sequences(rows):
            scenes = found.column(c.SCENES)
            columns = {name: found.column(name) for name in found.schema.names}
            columns[c.SCENES] = pa.ListArray.from_arrays(scenes.offsets, scenes.values.dictionary_decode())
            columns[c.BUCKET] = pa.array(np.full(found.num_rows, part.part % buckets, np.int32))
            names = USER_SEQUENCES.column_names
            yield pa.RecordBatch.from_arrays([columns[name] for name in names], names=names)


def _history_rows(chunks: SequencePass, part: WholePart) -> Iterator[pa.RecordBatch]:
    for rows in part.portions:
        yield from chunks.histories(rows)


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
