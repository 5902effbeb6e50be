"""New events merged into stored user sequences, exactly as if the sequences had been built from all events.

A stored sequence holds no event ids, and needs none: where no new event shares an instant with a stored one, time alone
decides the order. Where one does, the row is marked and its user has to be built anew from the events.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.sequences.build import length_limit
from precise_core.sequences.config import SequencesConfig
from schemas import USER_SEQUENCES
from schemas import columns as c

IS_TIED = "is_tied"
IS_CHANGED = "is_changed"
STORED_LENGTH = "stored_length"

_PARALLEL = (c.ITEM_INDICES, c.SCENES, c.EVENT_TS)
_LINE = "line"
_NEW = "new_"
_MERGED = "merged_"


def trim_sequences(stored: DataFrame, config: SequencesConfig) -> DataFrame:
    """Rows of ``schemas.USER_SEQUENCES`` cut to the last N of their task."""
    arrays = {name: _last(F.col(name), length_limit(config)) for name in _PARALLEL}
    return stored.withColumns(arrays | {c.LENGTH: F.least(F.col(c.LENGTH), length_limit(config))})


def merge_sequences(stored: DataFrame, fresh: DataFrame, config: SequencesConfig) -> DataFrame:
    """The stored rows that new events belong to, with these events merged in.

    Args:
        stored: ``schemas.USER_SEQUENCES``, no row longer than N.
        fresh: The same built from the new events alone.
        config: N of every task.

    Returns:
        ``schemas.USER_SEQUENCES`` and three columns: ``is_tied`` (a new event shares an instant with a stored one; the
        row is not to be used), ``is_changed`` (false where every new event is older than a full sequence) and
        ``stored_length``, the length before the merge.
    """
    new = fresh.select(c.USER_ID, c.TASK, *[F.col(name).alias(_NEW + name) for name in _PARALLEL])
    joined = stored.join(new, on=[c.USER_ID, c.TASK], how="inner")
    new_times, times = F.col(_NEW + c.EVENT_TS), F.col(_MERGED + c.EVENT_TS)
    is_later = F.element_at(new_times, 1) > F.col(c.LAST_EVENT_TS)
    # Nearly always the new events are the newest, and the arrays only grow at their end.
    merged = joined.withColumn(_LINE, F.when(~is_later, _in_order())).withColumns(
        {
            _MERGED + name: _last(
                F.when(is_later, F.concat(name, _NEW + name)).otherwise(F.col(_LINE)[name]), length_limit(config)
            )
            for name in _PARALLEL
        }
    )
    columns = {name: F.col(_MERGED + name) for name in _PARALLEL} | {
        c.LENGTH: F.size(times),
        c.LAST_EVENT_TS: F.element_at(times, -1),
    }
    return merged.select(
        *[columns.get(name, F.col(name)).alias(name) for name in USER_SEQUENCES.column_names],
        (~is_later & F.arrays_overlap(F.col(c.EVENT_TS), new_times)).alias(IS_TIED),
        (is_later | (times != F.col(c.EVENT_TS))).alias(IS_CHANGED),
        F.col(c.LENGTH).alias(STORED_LENGTH),
    )


def _in_order() -> Column:
    """Stored and new events by time; those of one instant are all stored or all new and keep their places."""
    kind = f"array<struct<{c.EVENT_TS}:timestamp,place:int,{c.ITEM_INDICES}:int,{c.SCENES}:string>>"
    lines = [
        F.arrays_zip(
            of + c.EVENT_TS, F.sequence(F.lit(1), F.size(of + c.EVENT_TS)), of + c.ITEM_INDICES, of + c.SCENES
        ).cast(kind)
        for of in ("", _NEW)
    ]
    return F.sort_array(F.concat(*lines))


def _last(array: Column, limit: Column) -> Column:
    return F.when(F.size(array) > limit, F.slice(array, F.size(array) - limit + 1, limit)).otherwise(array)
