"""Tonight's `user_sequences`: the stored ones brought forward by what changed in `events`, or all built anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.errors import DataError, HistoryGoneError
from precise_core.run.job import Job
from precise_core.sequences.build import build_user_sequences, events_per_sequence, length_limit, user_bucket
from precise_core.sequences.increment import Increment, is_in_partitions
from precise_core.sequences.plan import SequenceState, TableVersion, plan_sequences, task_states
from precise_core.tasks import events_before
from schemas import EVENTS, ITEM_VOCABULARY, USER_SEQUENCES, Table
from schemas import columns as c


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
    partitions: Sequence[Mapping[str, Any]] | None
    counted: DataFrame
    state: SequenceState


def prepare_sequences(job: Job, *, full: bool) -> SequenceUpdate | None:
    """The update for ``settings.as_of``; None where nothing has to be written, which is said."""
    is_first = not job.warehouse.exists(USER_SEQUENCES)
    update = _update(job, full=full, is_first=is_first)
    if update is None or is_first or not update.rows.isEmpty():
        return update
    if not events_before(job.read(EVENTS), job.settings.as_of).isEmpty():
        return update
    job.say(f"warning: events has no row before {job.settings.as_of}; user_sequences is left as it is")
    return None


def write_sequences(job: Job, update: SequenceUpdate) -> None:
    """One commit: the rows and what they were made from; then where every event went."""
    note = update.state.model_dump(mode="json")
    if update.partitions is None:
        job.write(USER_SEQUENCES, update.content, note=note)
    else:
        job.replace_partitions(USER_SEQUENCES, update.content, update.partitions, note)
    limit = length_limit(job.settings.sequences)
    beyond = F.greatest(F.col(c.COUNT) - limit, F.lit(0))
    events = update.counted.agg(F.sum(c.COUNT).alias("all"), F.sum(beyond).alias("beyond")).collect()[0]
    written = job.read_written(USER_SEQUENCES)
    if update.partitions is not None:
        written = written.join(update.counted.select(c.USER_ID, c.TASK), on=[c.USER_ID, c.TASK], how="left_semi")
    kept = written.agg(F.sum(c.LENGTH).alias("kept")).collect()[0]["kept"]
    unit = "events of all tasks" if update.partitions is None else "events of the sequences touched"
    job.balance(unit, rows_in=events["all"] or 0, rows_out=kept or 0, rows_rejected=events["beyond"] or 0)


def as_of_sequences(job: Job) -> datetime:
    """The instant up to which the pinned `user_sequences` know the world; the configuration's, where they do not say.

    Where a later night found nothing new, it is the instant of the night that wrote them.
    """
    note = job.warehouse.note(USER_SEQUENCES, job.pin(USER_SEQUENCES))
    return SequenceState.model_validate(note.content).as_of if note else job.settings.as_of


def check_sequences(job: Job, update: SequenceUpdate | None, buckets: int) -> None:
    """Build some buckets from all events and compare them with what the table is about to hold.

    Which buckets moves on with ``as_of``, so that some nights see them all.

    Raises:
        DataError: A row differs; nothing was written.
    """
    settings = job.settings
    first = settings.as_of.toordinal() * buckets
    sample = sorted({(first + step) % settings.sequences.buckets for step in range(buckets)})
    of_sample = user_bucket(settings.sequences.buckets).isin(sample)
    expected = build_user_sequences(
        job.read(EVENTS).where(of_sample), job.read(ITEM_VOCABULARY), settings.tasks, settings.as_of, settings.sequences
    )
    found = _after(job, update).where(F.col(c.BUCKET).isin(sample))
    missing, wrong = expected.exceptAll(found).count(), found.exceptAll(expected).count()
    if missing or wrong:
        raise DataError(
            f"user_sequences, buckets {sample}: {missing} rows of a full build are missing and {wrong} should not be "
            "there; nothing was written; run jobs/build_sequences.py --full"
        )
    job.say(f"checked: buckets {sample} of {settings.sequences.buckets} are what a full build gives")


def _update(job: Job, *, full: bool, is_first: bool) -> SequenceUpdate | None:
    now = _state(job)
    if full or is_first:
        return _everything(job, now, "asked for by --full" if full else "there is no user_sequences yet")
    try:
        return _brought_forward(job, now)
    except HistoryGoneError as error:
        return _everything(job, now, str(error))


def _after(job: Job, update: SequenceUpdate | None) -> DataFrame:
    if update is None:
        return job.read(USER_SEQUENCES)
    if update.partitions is None:
        return update.content
    kept = job.read(USER_SEQUENCES).where(~is_in_partitions(update.partitions))
    return kept.unionByName(update.content)


def _state(job: Job) -> SequenceState:
    settings = job.settings
    return SequenceState(
        as_of=settings.as_of,
        events=_pinned(job, EVENTS),
        vocabulary=_pinned(job, ITEM_VOCABULARY),
        tasks=task_states(settings.tasks, settings.sequences),
        buckets=settings.sequences.buckets,
    )


def _pinned(job: Job, table: Table) -> TableVersion:
    version = job.pin(table)  # first: it names the job to run where there is no table
    return TableVersion(table_id=job.warehouse.table_id(table), version=version)


def _everything(job: Job, now: SequenceState, why: str) -> SequenceUpdate:
    job.say(f"full build: {why}")
    settings, events = job.settings, job.read(EVENTS)
    rows = build_user_sequences(
        events, job.read(ITEM_VOCABULARY), settings.tasks, settings.as_of, settings.sequences
    ).persist(StorageLevel.DISK_ONLY)  # a partition of them may be larger than the heap
    counted = events_per_sequence(events_before(events, settings.as_of), settings.tasks)
    return SequenceUpdate(rows=rows, content=rows, partitions=None, counted=counted, state=now)


def _brought_forward(job: Job, now: SequenceState) -> SequenceUpdate | None:
    note = job.warehouse.note(USER_SEQUENCES, job.pin(USER_SEQUENCES))
    if note is None:
        return _everything(job, now, "the table does not say what it was made from")
    last = SequenceState.model_validate(note.content)
    if last == now and note.is_current:
        job.say("the table was made from what is there now")
        return None
    plan = plan_sequences(last, now)
    if plan.full:
        return _everything(job, now, plan.full)
    for task, why in plan.rebuilt.items():
        job.say(f"task {task} is built anew: {why}")
    increment = Increment(job, last, now, plan, None if note.is_current else note.version)
    partitions = increment.partitions()
    if not partitions:
        job.say("nothing that belongs into a sequence has changed")
        return None
    return SequenceUpdate(
        rows=increment.rows,
        content=increment.content(partitions),
        partitions=partitions,
        counted=increment.counted(),
        state=now,
    )
