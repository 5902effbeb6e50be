"""What one night changes in `user_sequences`.

New events are merged into the stored sequences of their users. Users who lost or corrected an event, whose items moved
in the vocabulary, or whose new events share an instant with stored ones, are built anew from all their events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, reduce
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.features.sequence_merge import (
    IS_CHANGED,
    IS_TIED,
    STORED_LENGTH,
    merge_sequences,
    trim_sequences,
)
from precise_core.features.sequence_state import SequencePlan, SequenceState
from precise_core.features.sequences import (
    EVENTS_OF_SEQUENCES,
    build_user_sequences,
    collect_entries,
    events_per_sequence,
    sequence_rows,
)
from precise_core.features.tasks import events_before, task_events
from precise_core.features.vocabulary import UNKNOWN_INDEX
from precise_core.runtime.job import Job
from precise_core.sources.times import instant
from precise_core.spark.changes import SIGN, net_changes
from schemas import EVENTS, ITEM_VOCABULARY, USER_SEQUENCES
from schemas import columns as c

Partition = Mapping[str, Any]

_KEY = [c.USER_ID, c.TASK]
_ROW_HASH = "row_hash"
_BROADCAST_ROWS = 2_000_000  # sequences with new events that every executor may hold at once


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
    def _stored(self) -> DataFrame:
        stored = self._job.read(USER_SEQUENCES).where(F.col(c.TASK).isin(*self._plan.kept))
        return trim_sequences(stored, self._config) if self._plan.trimmed else stored

    @cached_property
    def _changes(self) -> DataFrame:
        """Events that were before last night's ``as_of`` in one of the two versions only."""
        return net_changes(
            self._job.spark,
            self._job.warehouse,
            EVENTS,
            since=self._last.events.version,
            until=self._now.events.version,
            columns=EVENTS_OF_SEQUENCES,
            where=F.col(c.EVENT_TS) < instant(self._last.as_of),
        )

    @cached_property
    def _added(self) -> DataFrame:
        """Late events, and all events since last night's ``as_of``, whenever they came into the table."""
        late = self._changes.where(F.col(SIGN) > 0).drop(SIGN)
        is_recent = F.col(c.EVENT_DATE).between(self._last.as_of.date(), self._as_of.date())  # prunes partitions
        recent = self._job.read(EVENTS).where(is_recent & (F.col(c.EVENT_TS) >= instant(self._last.as_of)))
        return late.unionByName(events_before(recent, self._as_of).select(*EVENTS_OF_SEQUENCES)).persist()

    @cached_property
    def _unsettled_users(self) -> DataFrame:
        """Users whose stored sequences cannot be gone on from."""
        users = self._changes.where(F.col(SIGN) < 0).select(c.USER_ID)
        if self._last.vocabulary != self._now.vocabulary:
            users = users.unionByName(self._users_of_moved_items())
        if self._foreign_since is not None:
            users = users.unionByName(self._users_of_foreign_changes(self._foreign_since))
        return users.distinct().persist()

    def _users_of_moved_items(self) -> DataFrame:
        """Users with an event on an item whose index is new, gone or another one."""
        moved = net_changes(
            self._job.spark,
            self._job.warehouse,
            ITEM_VOCABULARY,
            since=self._last.vocabulary.version,
            until=self._now.vocabulary.version,
            columns=(c.ITEM_ID, c.ITEM_INDEX),
        )
        is_only_growth = moved.where(F.col(SIGN) < 0).isEmpty()
        has_unknown = F.array_contains(c.ITEM_INDICES, UNKNOWN_INDEX)
        if is_only_growth and self._stored.where(has_unknown).isEmpty():
            return moved.limit(0).select(F.col(c.ITEM_ID).alias(c.USER_ID))  # nobody has had a new item before
        events = events_before(self._job.read(EVENTS), self._as_of)
        return events.join(moved.select(c.ITEM_ID).distinct(), on=c.ITEM_ID, how="left_semi").select(c.USER_ID)

    def _users_of_foreign_changes(self, since: int) -> DataFrame:
        """Users of rows that somebody else, an erasure for example, has changed or deleted."""
        self._job.say(f"user_sequences was changed by others since version {since}: these users are built anew")
        changes = net_changes(
            self._job.spark,
            self._job.warehouse,
            USER_SEQUENCES,
            since=since,
            until=self._job.pin(USER_SEQUENCES),
            columns=(c.USER_ID, c.TASK, c.ITEM_INDICES, c.SCENES, c.EVENT_TS),
        )
        return changes.select(c.USER_ID)

    @cached_property
    def _fresh(self) -> DataFrame:
        settled = self._added.join(self._unsettled_users, on=c.USER_ID, how="left_anti")
        return collect_entries(
            task_events(settled, self._tasks, self._plan.kept), self._vocabulary, self._config
        ).persist()

    @cached_property
    def _touched(self) -> DataFrame:
        """Stored sequences with the new events merged in; those of ``_users_anew`` are not to be used."""
        fresh = self._fresh
        # Sequences are wide: send the few new events to them rather than both through a shuffle.
        new = F.broadcast(fresh) if fresh.count() <= _BROADCAST_ROWS else fresh
        return merge_sequences(self._stored, new, self._config).persist()

    @cached_property
    def _users_anew(self) -> DataFrame:
        tied = self._touched.where(IS_TIED).select(c.USER_ID)
        return self._unsettled_users.unionByName(tied).distinct().persist()

    @cached_property
    def _events_anew(self) -> DataFrame:
        visible = events_before(self._job.read(EVENTS), self._as_of)
        return visible.join(self._users_anew, on=c.USER_ID, how="left_semi")

    @cached_property
    def _has_users_anew(self) -> bool:
        return not self._users_anew.isEmpty()

    @cached_property
    def _merged(self) -> DataFrame:
        return self._of_settled(self._touched)

    def _of_settled(self, frame: DataFrame) -> DataFrame:
        if not self._has_users_anew:
            return frame
        return frame.join(self._users_anew, on=c.USER_ID, how="left_anti")

    @cached_property
    def rows(self) -> DataFrame:
        """New and altered rows of every task."""
        columns = USER_SEQUENCES.column_names
        first = self._of_settled(self._fresh.join(self._touched.select(*_KEY), on=_KEY, how="left_anti"))
        rows = self._merged.where(IS_CHANGED).select(*columns).unionByName(sequence_rows(first, self._config.buckets))
        if self._has_users_anew:
            rows = rows.unionByName(self._built(self._events_anew, self._plan.kept))
        if self._plan.rebuilt:
            rows = rows.unionByName(self._built(self._job.read(EVENTS), tuple(self._plan.rebuilt)))
        return rows.persist()

    def _built(self, events: DataFrame, tasks: tuple[str, ...]) -> DataFrame:
        return build_user_sequences(events, self._vocabulary, self._tasks, self._as_of, self._config, tasks)

    def partitions(self) -> list[Partition]:
        """What has to be rewritten: whole tasks, and single buckets of the others; empty where nothing changed."""
        whole = {*self._plan.rebuilt, *self._plan.trimmed, *self._plan.dropped}
        touched = self.rows.select(c.TASK, c.BUCKET)
        if self._has_users_anew:
            stored = self._stored.select(c.USER_ID, c.TASK, c.BUCKET)
            leaving = stored.join(self._users_anew, on=c.USER_ID, how="left_semi")
            touched = touched.unionByName(leaving.select(c.TASK, c.BUCKET))
        found = sorted((row[c.TASK], row[c.BUCKET]) for row in touched.distinct().collect())
        single: list[Partition] = [{c.TASK: task, c.BUCKET: bucket} for task, bucket in found if task not in whole]
        return [*({c.TASK: task} for task in sorted(whole)), *single]

    def content(self, partitions: Sequence[Partition]) -> DataFrame:
        """All rows of ``partitions`` after tonight."""
        kept = self._stored.where(is_in_partitions(partitions))
        kept = self._of_settled(kept.join(self.rows.select(*_KEY), on=_KEY, how="left_anti"))
        return kept.select(*USER_SEQUENCES.column_names).unionByName(self.rows)

    def counted(self) -> DataFrame:
        """user_id, task and ``count``: stored and new events of each sequence that was touched or built anew."""
        new = self._of_settled(events_per_sequence(self._added, self._tasks, self._plan.kept))
        before = self._merged.select(*_KEY, STORED_LENGTH)
        total = F.col(c.COUNT) + F.coalesce(F.col(STORED_LENGTH), F.lit(0))
        counted = new.join(before, on=_KEY, how="left").select(*_KEY, total.alias(c.COUNT))
        if self._has_users_anew:
            counted = counted.unionByName(events_per_sequence(self._events_anew, self._tasks, self._plan.kept))
        if self._plan.rebuilt:
            visible = events_before(self._job.read(EVENTS), self._as_of)
            counted = counted.unionByName(events_per_sequence(visible, self._tasks, tuple(self._plan.rebuilt)))
        return counted


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
