"""What one night changes in `user_sequences`: frames in, frames out.

New events are merged into the stored sequences of their users, exactly as if these had been built from all events. A
stored sequence holds no event ids, and needs none: where no new event shares an instant with a stored one, time alone
decides the order. Users for whom that does not hold, who lost or corrected an event, or whose items moved in the
vocabulary, are built anew from all their events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, reduce
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.sequences.build import EVENTS_OF_SEQUENCES, SequenceInputs, events_per_sequence, length_limit
from precise_core.sequences.config import SequencesConfig
from precise_core.sequences.plan import SequencePlan, SequenceState
from precise_core.tasks import events_before
from precise_core.warehouse.changes import Changes
from precise_core.warehouse.instants import instant
from schemas import USER_SEQUENCES
from schemas import columns as c

Partition = Mapping[str, Any]

_KEY = [c.USER_ID, c.TASK]
_BROADCAST_EVENTS = 2_000_000  # that every executor may hold at once, some 30 bytes each; so many keys without events
_IS_TIED = "is_tied"
_IS_CHANGED = "is_changed"
_STORED_LENGTH = "stored_length"
_PARALLEL = (c.ITEM_INDICES, c.SCENES, c.EVENT_TS)
_LINE = "line"
_NEW = "new_"
_MERGED = "merged_"


@dataclass(frozen=True, kw_only=True)
class SequenceChanges:
    """What there is since the stored sequences were written.

    Args:
        stored: `user_sequences`, which know the events before ``stored_as_of``.
        stored_as_of: The last night's ``as_of``.
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
        rows: New and altered rows: what a gate has to look at.
        content: Everything that ``partitions``, or the table, will hold.
        partitions: Which partitions are replaced; None for the whole table.
        counted: user_id, task and the ``count`` of events that became this sequence or were cut off it.
        state: What the table is made from after the write.
    """

    rows: DataFrame
    content: DataFrame
    partitions: Sequence[Partition] | None
    counted: DataFrame
    state: SequenceState

    @property
    def unit(self) -> str:
        """What ``count_events`` counts."""
        return "events of all tasks" if self.partitions is None else "events of the sequences touched"

    def count_events(self, written: DataFrame, config: SequencesConfig) -> dict[str, int]:
        """Where every event went: into a sequence of the table as ``written``, or beyond its N."""
        beyond = F.greatest(F.col(c.COUNT) - length_limit(config), F.lit(0))
        events = self.counted.agg(F.sum(c.COUNT).alias("all"), F.sum(beyond).alias("beyond")).collect()[0]
        if self.partitions is not None:
            written = written.join(self.counted.select(*_KEY), on=_KEY, how="left_semi")
        kept = written.agg(F.sum(c.LENGTH).alias("kept")).collect()[0]["kept"]
        return {"rows_in": events["all"] or 0, "rows_out": kept or 0, "rows_rejected": events["beyond"] or 0}

    def table_after(self, stored: DataFrame) -> DataFrame:
        """What the table, now ``stored``, is about to hold."""
        if self.partitions is None:
            return self.content
        return stored.where(~_is_in_partitions(self.partitions)).unionByName(self.content)


def build_everything(inputs: SequenceInputs, state: SequenceState) -> SequenceUpdate:
    """Every row from all events."""
    rows = _on_disk(inputs.sequences(inputs.events))
    counted = events_per_sequence(inputs.visible_events, inputs.tasks)
    return SequenceUpdate(rows=rows, content=rows, partitions=None, counted=counted, state=state)


def bring_forward(
    inputs: SequenceInputs, changes: SequenceChanges, plan: SequencePlan, state: SequenceState
) -> SequenceUpdate | None:
    """The update from the stored rows to those of ``state``; None where no row changes."""
    increment = _Increment(inputs, changes, plan)
    partitions = increment.partitions()
    if not partitions:
        return None
    content, counted = increment.content(partitions), increment.counted()
    return SequenceUpdate(rows=increment.rows, content=content, partitions=partitions, counted=counted, state=state)


@dataclass(frozen=True)
class _Increment:
    """The frames of one night's change, each computed once."""

    inputs: SequenceInputs
    changes: SequenceChanges
    plan: SequencePlan

    @cached_property
    def rows(self) -> DataFrame:
        """New and altered rows of every task."""
        changed = self._settled(self._touched).where(_IS_CHANGED).select(*USER_SEQUENCES.column_names)
        built = self._settled(self._fresh.join(self._touched.select(*_KEY), on=_KEY, how="left_anti"))
        if self._users_anew is not None:
            built = built.unionByName(self.inputs.sequences(self._events_of(self._users_anew), self.plan.kept))
        if self.plan.rebuilt:
            built = built.unionByName(self.inputs.sequences(self.inputs.events, tuple(self.plan.rebuilt)))
        # Changed rows lie together as their old files do; the others would become a file per task and partition.
        return _on_disk(changed.unionByName(built.repartition(*USER_SEQUENCES.partition_by)))

    def partitions(self) -> list[Partition]:
        """What has to be rewritten: whole tasks, and single buckets of the others; empty where nothing changed."""
        whole = {*self.plan.rebuilt, *self.plan.trimmed, *self.plan.dropped}
        touched = self.rows.select(c.TASK, c.BUCKET)
        if self._users_anew is not None:
            leaving = self._stored.join(self._users_anew, on=c.USER_ID, how="left_semi")
            touched = touched.unionByName(leaving.select(c.TASK, c.BUCKET))
        found = sorted((row[c.TASK], row[c.BUCKET]) for row in touched.distinct().collect())
        single: list[Partition] = [{c.TASK: task, c.BUCKET: bucket} for task, bucket in found if task not in whole]
        return [*({c.TASK: task} for task in sorted(whole)), *single]

    def content(self, partitions: Sequence[Partition]) -> DataFrame:
        """All rows of ``partitions`` after tonight."""
        stored = self._stored.where(_is_in_partitions(partitions))
        replaced = self.rows.where(F.col(c.TASK).isin(*self.plan.kept)).select(*_KEY)
        kept = self._settled(stored.join(_sent(replaced), on=_KEY, how="left_anti"))
        return kept.select(*USER_SEQUENCES.column_names).unionByName(self.rows)

    def counted(self) -> DataFrame:
        """user_id, task and ``count``: stored and new events of each sequence that was touched or built anew."""
        tasks, kept = self.inputs.tasks, self.plan.kept
        new = self._settled(events_per_sequence(self._added, tasks, kept))
        total = F.col(c.COUNT) + F.coalesce(F.col(_STORED_LENGTH), F.lit(0))
        before = self._touched.select(*_KEY, _STORED_LENGTH)
        counted = new.join(before, on=_KEY, how="left").select(*_KEY, total.alias(c.COUNT))
        if self._users_anew is not None:
            counted = counted.unionByName(events_per_sequence(self._events_of(self._users_anew), tasks, kept))
        if self.plan.rebuilt:
            rebuilt = events_per_sequence(self.inputs.visible_events, tasks, tuple(self.plan.rebuilt))
            counted = counted.unionByName(rebuilt)
        return counted

    @cached_property
    def _stored(self) -> DataFrame:
        stored = self.changes.stored.where(F.col(c.TASK).isin(*self.plan.kept))
        return _trimmed(stored, self.inputs.config) if self.plan.trimmed else stored

    @cached_property
    def _added(self) -> DataFrame:
        """Late events, and all events since the last night's ``as_of``, whenever they came into the table."""
        since, until = self.changes.stored_as_of, self.inputs.as_of
        is_recent = F.col(c.EVENT_DATE).between(since.date(), until.date())  # prunes partitions
        recent = self.inputs.events.where(is_recent & (F.col(c.EVENT_TS) >= instant(since)))
        return _on_disk(self.changes.late.added.unionByName(events_before(recent, until).select(*EVENTS_OF_SEQUENCES)))

    @cached_property
    def _unsettled_users(self) -> DataFrame | None:
        """Users whose stored sequences cannot be continued; None where there is no reason to look for any."""
        late, foreign = self.changes.late, self.changes.foreign
        sources = [
            late.removed.select(c.USER_ID) if late.has_removed else None,
            self._users_of_moved_items(),
            foreign.frame.select(c.USER_ID) if foreign else None,
        ]
        found = [users for users in sources if users is not None]
        return _on_disk(reduce(DataFrame.unionByName, found).distinct()) if found else None

    def _users_of_moved_items(self) -> DataFrame | None:
        """Users with an event on an item whose index is new, gone or another one."""
        moved, has_unknown = self.changes.items, F.array_contains(c.ITEM_INDICES, c.UNKNOWN_INDEX)
        if moved is None or (not moved.has_removed and self._stored.where(has_unknown).isEmpty()):
            return None  # the vocabulary at most grew, and nobody has had an item that it lacked
        items = moved.frame.select(c.ITEM_ID).distinct()
        return self.inputs.visible_events.join(items, on=c.ITEM_ID, how="left_semi").select(c.USER_ID)

    @cached_property
    def _fresh(self) -> DataFrame:
        """Sequences of the new events alone."""
        events = _without_users(self._added, self._unsettled_users)
        return _on_disk(self.inputs.sequences(events, self.plan.kept))

    @cached_property
    def _touched(self) -> DataFrame:
        """Stored sequences with the new events merged in, whether or not they may be used."""
        return _on_disk(_merged(self._stored, _sent(self._fresh), self.inputs.config))

    @cached_property
    def _users_anew(self) -> DataFrame | None:
        """Users that are built anew from all their events; None on a night without any."""
        unsettled, tied = self._unsettled_users, self._touched.where(_IS_TIED).select(c.USER_ID)
        users = tied if unsettled is None else unsettled.unionByName(tied)
        return None if users.isEmpty() else _on_disk(users.distinct())

    def _events_of(self, users: DataFrame) -> DataFrame:
        return self.inputs.visible_events.join(users, on=c.USER_ID, how="left_semi")

    def _settled(self, frame: DataFrame) -> DataFrame:
        """Rows of users that are not built anew."""
        return _without_users(frame, self._users_anew)


def is_small(frame: DataFrame) -> bool:
    """Whether a frame fits into every executor: by its events where its rows are sequences, else by its rows."""
    events = F.sum(c.LENGTH) if c.LENGTH in frame.columns else F.count(F.lit(1))
    return (frame.agg(events).collect()[0][0] or 0) <= _BROADCAST_EVENTS


def _sent(frame: DataFrame) -> DataFrame:
    """``frame``, cached, for a join with sequences: they are wide, and go through no shuffle where it is small."""
    return F.broadcast(frame) if is_small(frame) else frame


def _on_disk(frame: DataFrame) -> DataFrame:
    return frame.persist(StorageLevel.DISK_ONLY)  # a partition of sequences may be larger than the heap


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
        row is not to be used), ``is_changed`` (false where every new event is older than a full sequence) and
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
