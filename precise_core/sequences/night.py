"""Tonight's `user_sequences`: the stored ones brought forward by what changed in `events`, or all built anew."""

from __future__ import annotations

from functools import partial

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.errors import DataError, HistoryGoneError, NewerFileError
from precise_core.run.job import Job
from precise_core.sequences.build import SequenceInputs, user_bucket
from precise_core.sequences.event_files import EVENTS_OF_SEQUENCES, EventFiles
from precise_core.sequences.increment import SequenceChanges, SequenceUpdate, bring_forward, build_everything
from precise_core.sequences.plan import SequenceState, TableVersion, plan_sequences, task_states
from precise_core.sequences.windows import build_training_windows
from precise_core.warehouse.changes import net_changes
from precise_core.warehouse.instants import instant
from precise_core.warehouse.reader import DeltaSnapshot
from precise_core.warehouse.session import has_lineage
from schemas import EVENTS, ITEM_VOCABULARY, USER_SEQUENCES, Table
from schemas import columns as c


def prepare_sequences(job: Job, *, full: bool) -> SequenceUpdate | None:
    """The update for ``settings.as_of``; None where nothing has to be written, which is logged."""
    is_first = not job.warehouse.exists(USER_SEQUENCES)
    update = _update(job, full=full, is_first=is_first)
    if update is None or is_first or not update.rows.isEmpty() or not _inputs(job).visible_events.isEmpty():
        return update
    job.say(f"warning: events has no row before {job.settings.as_of}; user_sequences is left as it is")
    return None


def check_sequences(job: Job, update: SequenceUpdate | None, buckets: int) -> None:
    """Build some buckets from all events and compare them with what the table will hold.

    The buckets rotate with ``as_of``, so that some nights check all of them.

    Raises:
        DataError: A row differs; nothing was written.
    """
    inputs = _inputs(job)
    of_all, first = inputs.config.buckets, inputs.as_of.toordinal() * buckets
    sample = sorted({(first + step) % of_all for step in range(buckets)})
    expected = inputs.sequences(inputs.events.where(user_bucket(of_all).isin(sample)))
    stored = job.read(USER_SEQUENCES)
    found = (update.table_after(stored) if update else stored).where(F.col(c.BUCKET).isin(sample))
    missing, wrong = expected.exceptAll(found).count(), found.exceptAll(expected).count()
    if missing or wrong:
        raise DataError(
            f"user_sequences, buckets {sample}: {missing} rows of a full build are missing and {wrong} should not be "
            "there; nothing was written; run jobs/build_sequences.py --full"
        )
    job.say(f"checked: buckets {sample} of {of_all} are what a full build gives")


def prepare_windows(job: Job) -> DataFrame:
    """`training_windows` of the pinned events."""
    settings, events, vocabulary = job.settings, job.read(EVENTS), job.read(ITEM_VOCABULARY)
    return build_training_windows(events, vocabulary, settings.tasks, settings.as_of, settings.windows, settings.seed)


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


def _inputs(job: Job) -> SequenceInputs:
    settings = job.settings
    return SequenceInputs(
        events=job.read(EVENTS),
        vocabulary=job.read(ITEM_VOCABULARY),
        tasks=settings.tasks,
        as_of=settings.as_of,
        config=settings.sequences,
    )


def _update(job: Job, *, full: bool, is_first: bool) -> SequenceUpdate | None:
    now = _state(job)
    if full or is_first:
        return _everything(job, now, "requested by --full" if full else "there is no user_sequences yet")
    try:
        return _brought_forward(job, now)
    except HistoryGoneError as error:
        return _everything(job, now, str(error))


def _everything(job: Job, now: SequenceState, why: str) -> SequenceUpdate:
    job.say(f"full build: {why}")
    job.warehouse.create_if_missing(USER_SEQUENCES)  # files that lie where no table is, nobody would find to erase
    inputs, folder = _inputs(job), job.warehouse.path(USER_SEQUENCES)
    try:
        return build_everything(inputs, now, _event_files(job), folder)
    except NewerFileError as error:
        job.say(f"events are read by Spark, a newer Arrow has written some: {error}")
        return build_everything(inputs, now, None, folder)


def _event_files(job: Job) -> EventFiles | None:
    """The pinned events, for tasks to read; None where lineage is told what Spark reads and writes."""
    if has_lineage(job.spark):
        return None
    snapshot = DeltaSnapshot(job.warehouse.path(EVENTS), job.pin(EVENTS))
    vocabulary = job.read(ITEM_VOCABULARY).select(c.ITEM_ID, c.ITEM_INDEX).toArrow()  # Spark verifies its pages
    return EventFiles(snapshot.files(), snapshot.row_count(), vocabulary)


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
    changes = _changes(job, last, now, None if note.is_current else note.version)
    update = bring_forward(_inputs(job), changes, plan, now)
    if update is None:
        job.say("nothing that belongs into a sequence has changed")
    return update


def _changes(job: Job, last: SequenceState, now: SequenceState, foreign_since: int | None) -> SequenceChanges:
    """What changed between two nights; in `user_sequences` itself since the version ``foreign_since``."""
    changes = partial(net_changes, job.spark, job.warehouse)
    late = changes(
        EVENTS,
        since=last.events.version,
        until=now.events.version,
        columns=EVENTS_OF_SEQUENCES,
        where=F.col(c.EVENT_TS) < instant(last.as_of),
    )
    items, foreign = None, None
    if last.vocabulary != now.vocabulary:
        since, until = last.vocabulary.version, now.vocabulary.version
        items = changes(ITEM_VOCABULARY, since=since, until=until, columns=(c.ITEM_ID, c.ITEM_INDEX))
    if foreign_since is not None:
        job.say(f"user_sequences was changed by others since version {foreign_since}: these users are built anew")
        columns = (c.USER_ID, c.TASK, c.ITEM_INDICES, c.SCENES, c.EVENT_TS)
        foreign = changes(USER_SEQUENCES, since=foreign_since, until=job.pin(USER_SEQUENCES), columns=columns)
    stored = job.read(USER_SEQUENCES)
    return SequenceChanges(stored=stored, stored_as_of=last.as_of, late=late, items=items, foreign=foreign)
