"""New events merged into stored user sequences, exactly as if the sequences had been built from all events.

A stored sequence holds no event ids, and needs none: where no new event shares an instant with a stored one, time alone
decides the order. Where one does, the row is marked and its user has to be built anew from the events.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.features.config import SequencesConfig
from precise_core.features.sequences import ENTRIES, length_limit
from schemas import USER_SEQUENCES
from schemas import columns as c

IS_TIED = "is_tied"
IS_CHANGED = "is_changed"
STORED_LENGTH = "stored_length"

_LINE = "line"
_MERGED = "merged_"
_PARALLEL = {c.ITEM_INDICES: c.ITEM_INDEX, c.SCENES: c.SCENE, c.EVENT_TS: c.EVENT_TS}  # array -> field of an entry


def trim_sequences(stored: DataFrame, config: SequencesConfig) -> DataFrame:
    """Rows of ``schemas.USER_SEQUENCES`` cut to the last N of their task."""
    arrays = {name: _last(F.col(name), length_limit(config)) for name in _PARALLEL}
    return stored.withColumns(arrays | {c.LENGTH: F.least(F.col(c.LENGTH), length_limit(config))})


def merge_sequences(stored: DataFrame, fresh: DataFrame, config: SequencesConfig) -> DataFrame:
    """The stored rows that new events belong to, with these events merged in.

    Args:
        stored: ``schemas.USER_SEQUENCES``, no row longer than N.
        fresh: New events per user and task (``collect_entries``).
        config: N of every task.

    Returns:
        ``schemas.USER_SEQUENCES`` and three columns: ``is_tied`` (a new event shares an instant with a stored one; the
        row is not to be used), ``is_changed`` (false where every new event is older than a full sequence) and
        ``stored_length``, the length before the merge.
    """
    joined = stored.join(fresh.select(c.USER_ID, c.TASK, ENTRIES), on=[c.USER_ID, c.TASK], how="inner")
    is_later = F.element_at(ENTRIES, 1)[c.EVENT_TS] > F.col(c.LAST_EVENT_TS)
    # Nearly always the new events are the newest, and the arrays only grow at their end.
    line = joined.withColumn(_LINE, F.when(~is_later, _in_order()))
    limit = length_limit(config)
    merged = {
        _MERGED + name: _last(
            F.when(is_later, F.concat(F.col(name), F.col(ENTRIES)[field])).otherwise(F.col(_LINE)[field]), limit
        )
        for name, field in _PARALLEL.items()
    }
    times = F.col(_MERGED + c.EVENT_TS)
    columns = {name: F.col(_MERGED + name) for name in _PARALLEL} | {
        c.LENGTH: F.size(times),
        c.LAST_EVENT_TS: F.element_at(times, -1),
    }
    is_tied = ~is_later & F.arrays_overlap(F.col(c.EVENT_TS), F.col(ENTRIES)[c.EVENT_TS])
    return line.withColumns(merged).select(
        *[columns.get(name, F.col(name)).alias(name) for name in USER_SEQUENCES.column_names],
        is_tied.alias(IS_TIED),
        (is_later | (times != F.col(c.EVENT_TS))).alias(IS_CHANGED),
        F.col(c.LENGTH).alias(STORED_LENGTH),
    )


def _in_order() -> Column:
    """Stored and new events by time; those of one instant are all stored or all new and keep their places."""
    stored = F.arrays_zip(c.EVENT_TS, F.sequence(F.lit(1), F.size(c.EVENT_TS)), c.ITEM_INDICES, c.SCENES)
    new = F.col(ENTRIES)
    added = F.arrays_zip(new[c.EVENT_TS], F.sequence(F.lit(1), F.size(new)), new[c.ITEM_INDEX], new[c.SCENE])
    kind = f"array<struct<{c.EVENT_TS}:timestamp,place:int,{c.ITEM_INDEX}:int,{c.SCENE}:string>>"
    return F.sort_array(F.concat(stored.cast(kind), added.cast(kind)))


def _last(array: Column, limit: Column) -> Column:
    return F.when(F.size(array) > limit, F.slice(array, F.size(array) - limit + 1, limit)).otherwise(array)
