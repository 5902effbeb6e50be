"""What one night changes in `user_sequences`.

New events are merged into the stored sequences of their users. Users who lost or corrected an event, whose items moved
in the vocabulary, or whose new events share an instant with stored ones, are built anew from all their events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, reduce
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.run.job import Job
from precise_core.sequences.build import EVENTS_OF_SEQUENCES, build_user_sequences, events_per_sequence
from precise_core.sequences.merge import (
    IS_CHANGED,
    IS_TIED,
    STORED_LENGTH,
    merge_sequences,
    trim_sequences,
)
from precise_core.sequences.plan import SequencePlan, SequenceState
from precise_core.tasks import events_before
from precise_core.warehouse.changes import Changes, net_changes
from precise_core.warehouse.instants import instant
from schemas import EVENTS, ITEM_VOCABULARY, USER_SEQUENCES, Table
from schemas import columns as c

Partition = Mapping[str, Any]

_KEY = [c.USER_ID, c.TASK]
_BROADCAST_EVENTS = 2_000_000  # that every executor may hold at once, some 30 bytes each; so many keys without events


class Increment:
    """The frames of one night's change, each computed once.

    Args:
        job: Its pinned inputs and its configuration.
        last: What the stored rows were made from.
        now: What tonight's rows are made from.
        plan: Which tasks go on and which are built anew.
        foreign_since: The version since which others have changed rows of `user_sequences`; None where nobody has.
    """

    def __init__(
        self, job: Job, last: SequenceState, now: SequenceState, plan: SequencePlan, foreign_since: int | None
    ) -> None:
        self._job, self._last, self._now, self._plan = job, last, now, plan
        self._foreign_since = foreign_since
        self._config, self._tasks, self._as_of = job.settings.sequences, job.settings.tasks, job.settings.as_of
        self._vocabulary = job.read(ITEM_VOCABULARY)

    @cached_property
    def rows(self) -> DataFrame:
        """New and altered rows of every task."""
        changed = self._settled(self._touched).where(IS_CHANGED).select(*USER_SEQUENCES.column_names)
        built = self._settled(self._fresh.join(self._touched.select(*_KEY), on=_KEY, how="left_anti"))
        if self._users_anew is not None:
            built = built.unionByName(self._built(self._events_anew(self._users_anew), self._plan.kept))
        if self._plan.rebuilt:
            built = built.unionByName(self._built(self._job.read(EVENTS), tuple(self._plan.rebuilt)))
        # Changed rows lie together as their old files do; the others would become a file per task and partition.
        return changed.unionByName(built.repartition(*USER_SEQUENCES.partition_by)).persist(StorageLevel.DISK_ONLY)

    def partitions(self) -> list[Partition]:
        """What has to be rewritten: whole tasks, and single buckets of the others; empty where nothing changed."""
        whole = {*self._plan.rebuilt, *self._plan.trimmed, *self._plan.dropped}
        touched = self.rows.select(c.TASK, c.BUCKET)
        if self._users_anew is not None:
            leaving = self._stored.join(self._users_anew, on=c.USER_ID, how="left_semi")
            touched = touched.unionByName(leaving.select(c.TASK, c.BUCKET))
        found = sorted((row[c.TASK], row[c.BUCKET]) for row in touched.distinct().collect())
        single: list[Partition] = [{c.TASK: task, c.BUCKET: bucket} for task, bucket in found if task not in whole]
        return [*({c.TASK: task} for task in sorted(whole)), *single]

    def content(self, partitions: Sequence[Partition]) -> DataFrame:
        """All rows of ``partitions`` after tonight."""
        stored = self._stored.where(is_in_partitions(partitions))
        replaced = self.rows.where(F.col(c.TASK).isin(*self._plan.kept)).select(*_KEY)
        kept = self._settled(stored.join(_sent(replaced), on=_KEY, how="left_anti"))
        return kept.select(*USER_SEQUENCES.column_names).unionByName(self.rows)

    def counted(self) -> DataFrame:
        """user_id, task and ``count``: stored and new events of each sequence that was touched or built anew."""
        new = self._settled(events_per_sequence(self._added, self._tasks, self._plan.kept))
        total = F.col(c.COUNT) + F.coalesce(F.col(STORED_LENGTH), F.lit(0))
        before = self._touched.select(*_KEY, STORED_LENGTH)
        counted = new.join(before, on=_KEY, how="left").select(*_KEY, total.alias(c.COUNT))
        if self._users_anew is not None:
            anew = events_per_sequence(self._events_anew(self._users_anew), self._tasks, self._plan.kept)
            counted = counted.unionByName(anew)
        if self._plan.rebuilt:
            visible = events_before(self._job.read(EVENTS), self._as_of)
            counted = counted.unionByName(events_per_sequence(visible, self._tasks, tuple(self._plan.rebuilt)))
        return counted

    @cached_property
    def _stored(self) -> DataFrame:
        stored = self._job.read(USER_SEQUENCES).where(F.col(c.TASK).isin(*self._plan.kept))
        return trim_sequences(stored, self._config) if self._plan.trimmed else stored

    @cached_property
    def _late(self) -> Changes:
        """What changed among the events before last night's ``as_of``."""
        is_late = F.col(c.EVENT_TS) < instant(self._last.as_of)
        return self._changes(EVENTS, self._last.events.version, self._now.events.version, EVENTS_OF_SEQUENCES, is_late)

    @cached_property
    def _added(self) -> DataFrame:
        """Late events, and all events since last night's ``as_of``, whenever they came into the table."""
        is_recent = F.col(c.EVENT_DATE).between(self._last.as_of.date(), self._as_of.date())  # prunes partitions
        recent = self._job.read(EVENTS).where(is_recent & (F.col(c.EVENT_TS) >= instant(self._last.as_of)))
        recent = events_before(recent, self._as_of).select(*EVENTS_OF_SEQUENCES)
        return self._late.added.unionByName(recent).persist(StorageLevel.DISK_ONLY)

    @cached_property
    def _unsettled_users(self) -> DataFrame | None:
        """Users whose stored sequences cannot be gone on from; None where there is no reason to look for any."""
        sources = [
            self._late.removed.select(c.USER_ID) if self._late.has_removed else None,
            self._users_of_moved_items() if self._last.vocabulary != self._now.vocabulary else None,
            None if self._foreign_since is None else self._users_of_foreign_changes(self._foreign_since),
        ]
        found = [users for users in sources if users is not None]
        if not found:
            return None
        return reduce(DataFrame.unionByName, found).distinct().persist(StorageLevel.DISK_ONLY)

    def _users_of_moved_items(self) -> DataFrame | None:
        """Users with an event on an item whose index is new, gone or another one."""
        versions = self._last.vocabulary.version, self._now.vocabulary.version
        moved = self._changes(ITEM_VOCABULARY, *versions, (c.ITEM_ID, c.ITEM_INDEX))
        has_unknown = F.array_contains(c.ITEM_INDICES, c.UNKNOWN_INDEX)
        if not moved.has_removed and self._stored.where(has_unknown).isEmpty():
            return None  # the vocabulary only grew, and nobody has had an item that it lacked
        events = events_before(self._job.read(EVENTS), self._as_of)
        items = moved.frame.select(c.ITEM_ID).distinct()
        return events.join(items, on=c.ITEM_ID, how="left_semi").select(c.USER_ID)

    def _users_of_foreign_changes(self, since: int) -> DataFrame:
        """Users of rows that somebody else, an erasure for example, has changed or deleted."""
        self._job.say(f"user_sequences was changed by others since version {since}: these users are built anew")
        columns = (c.USER_ID, c.TASK, c.ITEM_INDICES, c.SCENES, c.EVENT_TS)
        return self._changes(USER_SEQUENCES, since, self._job.pin(USER_SEQUENCES), columns).frame.select(c.USER_ID)

    def _changes(
        self, table: Table, since: int, until: int, columns: Sequence[str], where: Column | None = None
    ) -> Changes:
        return net_changes(
            self._job.spark, self._job.warehouse, table, since=since, until=until, columns=columns, where=where
        )

    @cached_property
    def _fresh(self) -> DataFrame:
        """Sequences of the new events alone."""
        events = self._added
        if self._unsettled_users is not None:
            events = events.join(self._unsettled_users, on=c.USER_ID, how="left_anti")
        return self._built(events, self._plan.kept).persist(StorageLevel.DISK_ONLY)

    @cached_property
    def _touched(self) -> DataFrame:
        """Stored sequences with the new events merged in, whether or not they may be used."""
        return merge_sequences(self._stored, _sent(self._fresh), self._config).persist(StorageLevel.DISK_ONLY)

    @cached_property
    def _users_anew(self) -> DataFrame | None:
        """Users that are built anew from all their events; None on a night without any."""
        unsettled, tied = self._unsettled_users, self._touched.where(IS_TIED).select(c.USER_ID)
        users = tied if unsettled is None else unsettled.unionByName(tied)
        return None if users.isEmpty() else users.distinct().persist(StorageLevel.DISK_ONLY)

    def _events_anew(self, users: DataFrame) -> DataFrame:
        return events_before(self._job.read(EVENTS), self._as_of).join(users, on=c.USER_ID, how="left_semi")

    def _settled(self, frame: DataFrame) -> DataFrame:
        """Rows of users that are not built anew."""
        if self._users_anew is None:
            return frame
        return frame.join(self._users_anew, on=c.USER_ID, how="left_anti")

    def _built(self, events: DataFrame, tasks: tuple[str, ...]) -> DataFrame:
        return build_user_sequences(events, self._vocabulary, self._tasks, self._as_of, self._config, tasks)


def _sent(frame: DataFrame) -> DataFrame:
    """``frame``, cached, for a join with sequences: they are wide, and go through no shuffle where it is small."""
    return F.broadcast(frame) if is_small(frame) else frame


def is_small(frame: DataFrame) -> bool:
    """Whether a frame fits into every executor: by its events where its rows are sequences, else by its rows."""
    events = F.sum(c.LENGTH) if c.LENGTH in frame.columns else F.count(F.lit(1))
    return (frame.agg(events).collect()[0][0] or 0) <= _BROADCAST_EVENTS


def is_in_partitions(partitions: Sequence[Partition]) -> Column:
    """True for the rows of the partitions named."""
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
