"""What one night changes in `user_sequences`: frames in, frames out.

New events are merged into the stored sequences of their users, exactly as if these had been built from all events. A
stored sequence holds no event ids, and needs none: where no new event shares an instant with a stored one, time alone
decides the order. Users with such a tie, with a lost or corrected event, or with items whose index has changed, are
built anew from all their events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.sequences.build import SequenceInputs, events_per_sequence, length_limit
from precise_core.sequences.config import SequencesConfig
from precise_core.sequences.event_files import EVENTS_OF_SEQUENCES, EventFiles
from precise_core.sequences.files import SequenceFiles, write_user_sequences
from precise_core.sequences.plan import SequencePlan, SequenceState
from precise_core.warehouse.changes import Changes
from precise_core.warehouse.instants import instant
from schemas import USER_SEQUENCES
from schemas import columns as c

Partition = Mapping[str, Any]

_KEY = [c.USER_ID, c.TASK]
_BROADCAST_EVENTS = 2_000_000  # that every executor may hold at once, some 30 bytes each; or keys without events
_IS_TIED = "is_tied"
_IS_CHANGED = "is_changed"
_STORED_LENGTH = "stored_length"
_PARALLEL = (c.ITEM_INDICES, c.SCENES, c.EVENT_TS)
_LINE = "line"
_NEW = "new_"
_MERGED = "merged_"


@dataclass(frozen=True, kw_only=True)
class SequenceChanges:
    """What has changed since the stored sequences were written.

    Args:
        stored: `user_sequences`, built from the events before ``stored_as_of``.
        late: Changes of `events` before ``stored_as_of``.
        items: Changes of the vocabulary's items and indexes; None where it is the same version.
        foreign: What others, an erasure for example, have changed in ``stored``; None where nobody has.
    """

    stored: DataFrame
    stored_as_of: datetime
    late: Changes
    items: Changes | None
    foreign: Changes | None


@dataclass(frozen=True, kw_only=True)
class SequenceUpdate:
    """What a night will write.

    Args:
        rows: New and altered rows, for the gate.
        content: Everything that ``partitions``, or the table, will hold.
        partitions: Which partitions are replaced; None for the whole table.
        counted: user_id, task and the ``count`` of events in this sequence or cut off it; None where ``written`` says.
        state: What the table is made from after the write.
        written: Where the rows are in files of the table's folder already, uncommitted.
    """

    rows: DataFrame
    content: DataFrame
    partitions: Sequence[Partition] | None
    counted: DataFrame | None
    state: SequenceState
    written: SequenceFiles | None = None

    def discarded_unless_written(self) -> AbstractContextManager[object]:
        """At the end of the block, files that were not committed are removed."""
        return self.written.files if self.written else nullcontext()

    @property
    def unit(self) -> str:
        """What ``count_events`` counts."""
        return "events of all tasks" if self.partitions is None else "events of the sequences touched"

    def count_events(self, written: DataFrame, config: SequencesConfig) -> dict[str, int]:
        """Row balance of the events: in a sequence of the table as ``written``, or beyond its N."""
        if self.written:
            return {"rows_in": self.written.events, "rows_out": _kept(written), "rows_rejected": self.written.beyond}
        assert self.counted is not None
        beyond = F.greatest(F.col(c.COUNT) - length_limit(config), F.lit(0))
        events = self.counted.agg(F.sum(c.COUNT).alias("all"), F.sum(beyond).alias("beyond")).collect()[0]
        if self.partitions is not None:
            written = written.join(self.counted.select(*_KEY), on=_KEY, how="left_semi")
        return {"rows_in": events["all"] or 0, "rows_out": _kept(written), "rows_rejected": events["beyond"] or 0}

    def table_after(self, stored: DataFrame) -> DataFrame:
        """What the table, now ``stored``, will hold."""
        if self.partitions is None:
            return self.content
        return stored.where(~_is_in_partitions(self.partitions)).unionByName(self.content)


def build_everything(
    inputs: SequenceInputs, state: SequenceState, files: EventFiles | None, folder: str
) -> SequenceUpdate:
    """Every row from all events.

    Args:
        files: Those of the events; None where Spark is to read the events and to write the rows.
        folder: Of the table, where tasks write new files.
    """
    if files is None:
        rows = _on_disk(inputs.sequences(inputs.events))
        counted = events_per_sequence(inputs.visible_events, inputs.tasks)
        return SequenceUpdate(rows=rows, content=rows, partitions=None, counted=counted, state=state)
    written = write_user_sequences(inputs, files, folder)
    rows = written.files.frame(inputs.events.sparkSession)
    return SequenceUpdate(rows=rows, content=rows, partitions=None, counted=None, state=state, written=written)


def bring_forward(
    inputs: SequenceInputs, changes: SequenceChanges, plan: SequencePlan, state: SequenceState
) -> SequenceUpdate | None:
    """The update from the stored rows to those of ``state``; None where no row changes."""
    columns, kept = USER_SEQUENCES.column_names, plan.kept
    stored = changes.stored.where(F.col(c.TASK).isin(*kept))
    if plan.trimmed:
        stored = _trimmed(stored, inputs.config)
    added = _on_disk(_added_events(inputs, changes))
    unsettled = _unsettled_users(inputs, changes, stored)
    # Sequences of the new events alone; then the stored ones with these merged in, those with ties included.
    fresh = _on_disk(inputs.sequences(_without_users(added, unsettled), kept))
    touched = _on_disk(_merged(stored, _sent(fresh), inputs.config))
    anew = _users_anew(unsettled, touched)
    from_events: list[tuple[DataFrame, Sequence[str]]] = []  # events, and the tasks that are built from them
    if anew is not None:
        from_events.append((inputs.visible_events.join(anew, on=c.USER_ID, how="left_semi"), kept))
    if plan.rebuilt:
        from_events.append((inputs.visible_events, tuple(plan.rebuilt)))

    changed = _without_users(touched, anew).where(_IS_CHANGED).select(*columns)
    new = _without_users(fresh.join(touched.select(*_KEY), on=_KEY, how="left_anti"), anew)
    built = _union(new, *(inputs.sequences(events, tasks) for events, tasks in from_events))
    # Changed rows are clustered as their old files are; the others would become a file per task and partition.
    rows = _on_disk(changed.unionByName(built.repartition(*USER_SEQUENCES.partition_by)))
    partitions = _partitions(plan, rows, stored, anew)
    if not partitions:
        return None

    replaced = rows.where(F.col(c.TASK).isin(*kept)).select(*_KEY)
    unchanged = stored.where(_is_in_partitions(partitions)).join(_sent(replaced), on=_KEY, how="left_anti")
    content = _without_users(unchanged, anew).select(*columns).unionByName(rows)
    of_added = _without_users(events_per_sequence(added, inputs.tasks, kept), anew)
    total = F.col(c.COUNT) + F.coalesce(F.col(_STORED_LENGTH), F.lit(0))
    merged = of_added.join(touched.select(*_KEY, _STORED_LENGTH), on=_KEY, how="left").select(
        *_KEY, total.alias(c.COUNT)
    )
    counted = _union(merged, *(events_per_sequence(events, inputs.tasks, tasks) for events, tasks in from_events))
    return SequenceUpdate(rows=rows, content=content, partitions=partitions, counted=counted, state=state)


def _added_events(inputs: SequenceInputs, changes: SequenceChanges) -> DataFrame:
    """Late events, and all events since the last night's ``as_of``, whenever they were added to the table."""
    since, until = changes.stored_as_of, inputs.as_of
    is_recent = F.col(c.EVENT_DATE).between(since.date(), until.date())  # prunes files
    recent = inputs.visible_events.where(is_recent & (F.col(c.EVENT_TS) >= instant(since)))
    return changes.late.added.unionByName(recent.select(*EVENTS_OF_SEQUENCES))


def _unsettled_users(inputs: SequenceInputs, changes: SequenceChanges, stored: DataFrame) -> DataFrame | None:
    """Users whose stored sequences cannot be continued; None where there is no reason for any."""
    late, foreign = changes.late, changes.foreign
    sources = [
        late.removed.select(c.USER_ID) if late.has_removed else None,
        _users_of_moved_items(inputs, changes.items, stored),
        foreign.frame.select(c.USER_ID) if foreign else None,
    ]
    found = [users for users in sources if users is not None]
    return _on_disk(_union(*found).distinct()) if found else None


def _users_of_moved_items(inputs: SequenceInputs, moved: Changes | None, stored: DataFrame) -> DataFrame | None:
    """Users with an event on an item whose index is new, removed or another one."""
    has_unknown = F.array_contains(c.ITEM_INDICES, c.UNKNOWN_INDEX)
    if moved is None or (not moved.has_removed and stored.where(has_unknown).isEmpty()):
        return None  # the vocabulary at most grew, and no sequence has an item that it lacked
    items = moved.frame.select(c.ITEM_ID).distinct()
    return inputs.visible_events.join(items, on=c.ITEM_ID, how="left_semi").select(c.USER_ID)


def _users_anew(unsettled: DataFrame | None, touched: DataFrame) -> DataFrame | None:
    """Users that are built anew from all their events; None on a night without any."""
    tied = touched.where(_IS_TIED).select(c.USER_ID)
    users = tied if unsettled is None else unsettled.unionByName(tied)
    return None if users.isEmpty() else _on_disk(users.distinct())


def _partitions(plan: SequencePlan, rows: DataFrame, stored: DataFrame, anew: DataFrame | None) -> list[Partition]:
    """What has to be rewritten: whole tasks, and single buckets of the others; empty where nothing changed."""
    whole = {*plan.rebuilt, *plan.trimmed, *plan.dropped}
    touched = rows.select(c.TASK, c.BUCKET)
    if anew is not None:
        leaving = stored.join(anew, on=c.USER_ID, how="left_semi")
        touched = touched.unionByName(leaving.select(c.TASK, c.BUCKET))
    found = sorted((row[c.TASK], row[c.BUCKET]) for row in touched.distinct().collect())
    single: list[Partition] = [{c.TASK: task, c.BUCKET: bucket} for task, bucket in found if task not in whole]
    return [*({c.TASK: task} for task in sorted(whole)), *single]


def _kept(written: DataFrame) -> int:
    return written.agg(F.sum(c.LENGTH).alias("kept")).collect()[0]["kept"] or 0


def is_small(frame: DataFrame) -> bool:
    """Whether a frame fits into every executor: by its events where its rows are sequences, else by its rows."""
    events = F.sum(c.LENGTH) if c.LENGTH in frame.columns else F.count(F.lit(1))
    return (frame.agg(events).collect()[0][0] or 0) <= _BROADCAST_EVENTS


def _sent(frame: DataFrame) -> DataFrame:
    """``frame``, cached, for a join with sequences: they are wide, and go through no shuffle where it is small."""
    return F.broadcast(frame) if is_small(frame) else frame


def _on_disk(frame: DataFrame) -> DataFrame:
    return frame.persist(StorageLevel.DISK_ONLY)  # a partition of sequences may be larger than the heap


def _union(*frames: DataFrame) -> DataFrame:
    return reduce(DataFrame.unionByName, frames)


def _without_users(frame: DataFrame, users: DataFrame | None) -> DataFrame:
    return frame if users is None else frame.join(users, on=c.USER_ID, how="left_anti")


def _is_in_partitions(partitions: Sequence[Partition]) -> Column:
    buckets: dict[str, list[int] | None] = {}
    for partition in partitions:
        of_task = buckets.setdefault(partition[c.TASK], [] if c.BUCKET in partition else None)
        if of_task is not None:
            of_task.append(partition[c.BUCKET])
    conditions = [
        (F.col(c.TASK) == task) & (F.lit(True) if of_task is None else F.col(c.BUCKET).isin(of_task))
        for task, of_task in buckets.items()
    ]
    return reduce(lambda left, right: left | right, conditions, F.lit(False))


def _trimmed(stored: DataFrame, config: SequencesConfig) -> DataFrame:
    """Rows of ``schemas.USER_SEQUENCES`` cut to the last N of their task."""
    arrays = {name: _last(F.col(name), length_limit(config)) for name in _PARALLEL}
    return stored.withColumns(arrays | {c.LENGTH: F.least(F.col(c.LENGTH), length_limit(config))})


def _merged(stored: DataFrame, fresh: DataFrame, config: SequencesConfig) -> DataFrame:
    """The stored rows, none longer than N, that events of ``fresh`` belong to, with these events merged in.

    Returns:
        ``schemas.USER_SEQUENCES`` and three columns: ``is_tied`` (a new event shares an instant with a stored one; the
        row must not be used), ``is_changed`` (false where every new event is older than a full sequence) and
        ``stored_length``, the length before the merge.
    """
    new = fresh.select(*_KEY, *[F.col(name).alias(_NEW + name) for name in _PARALLEL])
    joined = stored.join(new, on=_KEY, how="inner")
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
        (~is_later & F.arrays_overlap(F.col(c.EVENT_TS), new_times)).alias(_IS_TIED),
        (is_later | (times != F.col(c.EVENT_TS))).alias(_IS_CHANGED),
        F.col(c.LENGTH).alias(_STORED_LENGTH),
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
