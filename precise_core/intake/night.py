"""What a night takes in: gathered from the source and from what is stored, judged, and put away kind by kind.

Own files are taken once (precise_core/intake/stock.py): new rows are added, corrected ones replaced. Other sources
are read whole, and so are own files with --full: the table becomes what the source says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial, reduce
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.errors import DataError
from precise_core.intake.chosen_sizes import BY_LOG, kept_line, read_sizes, size_lines, with_sizes, write_sizes
from precise_core.intake.cleaning import NEWEST_BY, Cleaned, hide_erased
from precise_core.intake.log_profile import profile_of
from precise_core.intake.parts import Part, clean_parts, doubts_about_order, judge
from precise_core.intake.read import read_source, source_fingerprint
from precise_core.intake.refusals import refuse_other_users
from precise_core.intake.replay import Quarantine
from precise_core.intake.stock import Intake, Policy, decide_what_to_read
from precise_core.run.job import Job
from precise_core.sources.config import FilesSource, TableInput
from precise_core.sources.files import inputs_of
from precise_core.sources.raw import RawTables
from precise_core.tasks import check_tasks
from precise_core.warehouse.erasure_list import ErasureList
from precise_core.warehouse.layout import has_declared_layout, lay_out_anew
from precise_core.warehouse.reader import DeltaSnapshot
from precise_core.warehouse.tables import Warehouse
from precise_core.warehouse.upsert import REASSIGNED, STATE, UpsertPlan, plan_upsert, replace_values, upsert
from schemas import (
    EVENTS,
    EVENTS_REJECTED,
    IMPRESSIONS,
    IMPRESSIONS_REJECTED,
    ITEMS,
    ITEMS_REJECTED,
    SOURCE_FILES,
    Table,
)
from schemas import columns as c

REJECTED: Mapping[str, Table] = {
    EVENTS.name: EVENTS_REJECTED,
    ITEMS.name: ITEMS_REJECTED,
    IMPRESSIONS.name: IMPRESSIONS_REJECTED,
}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a night starts from.

    Args:
        intake: Which files are read; none of a source that is read whole.
        raw: What was read, erased users hidden.
        is_increment: Whether tonight only adds to what is stored.
        items: The stored catalog, where tonight adds to it.
        events: The stored events, where tonight adds to them.
    """

    now: datetime
    policy: Policy
    records: Sequence[dict[str, Any]]
    intake: Intake
    raw: RawTables
    is_increment: bool
    items: DataFrame | None
    events: DataFrame | None


def gather(job: Job, now: datetime, policy: Policy) -> Inputs:
    """Pin what is stored, decide which files are read, and read them."""
    source, intake = job.settings.source, Intake()
    _adopt_layout(job)
    records = read_manifest(job.warehouse, job.pin(SOURCE_FILES) if job.warehouse.exists(SOURCE_FILES) else None)
    if isinstance(source, FilesSource):
        intake = decide_what_to_read(job.spark, source, records, _table_ids(job, source), policy)
        for line in intake.messages:
            job.say(line)
    job.input_fingerprints["source"] = source_fingerprint(source, records)
    read = read_source(job.spark, source, intake.batches if isinstance(source, FilesSource) else None)
    is_increment = isinstance(source, FilesSource) and not policy.full
    return Inputs(
        now=now,
        policy=policy,
        records=records,
        intake=intake,
        raw=hide_erased(read, ErasureList.of(job.root)),
        is_increment=is_increment,
        items=job.read_optional(ITEMS) if is_increment else None,
        events=job.read_optional(EVENTS) if is_increment and read.events is not None else None,
    )


def _adopt_layout(job: Job) -> None:
    """Write the logs of a warehouse that an earlier version of the code has laid out in another way anew, once."""
    for table in (EVENTS, IMPRESSIONS):
        path = job.warehouse.path(table)
        if job.warehouse.exists(table) and not has_declared_layout(path, table):
            job.say(f"{table.name}: an earlier version laid it out in folders; all its rows are written anew, once")
            with job.watching(f"laying out {table.name}"):
                job.require_held()
                done = lay_out_anew(job.spark, path, table, run_id=job.run_id)
            files = f"{done.files:,} files instead of {done.files_before:,}"
            job.say(f"{table.name}: {done.rows:,} rows in {files}, version {done.version}; no row has changed")


def read_manifest(warehouse: Warehouse, version: int | None = None) -> list[dict[str, Any]]:
    """The rows of one version of `source_files`, the newest by default; none where nothing was ever taken."""
    if not warehouse.exists(SOURCE_FILES):
        return []
    version = warehouse.version(SOURCE_FILES) if version is None else version
    records = warehouse.read_arrow(SOURCE_FILES, version).to_pylist()
    return [{**record, "columns": dict(record["columns"])} for record in records]


def _table_ids(job: Job, source: FilesSource) -> dict[str, str]:
    warehouse = job.warehouse
    there = [table for table in (EVENTS, ITEMS, IMPRESSIONS) if warehouse.exists(table)]
    ids = {table.name: warehouse.table_id(table) for table in there}
    if source.items is None and ITEMS.name not in ids:
        ids.pop(EVENTS.name, None)  # the catalog was made of the events: it is theirs to bring back
    return ids


def judged_parts(job: Job, inputs: Inputs) -> list[Part]:
    """Items, events, impressions: those that bring something tonight, read and checked once, and not refused."""
    settings = job.settings
    specs = inputs_of(settings.source) if isinstance(settings.source, FilesSource) else {}
    raw, arrivals, may_reassign = inputs.raw, inputs.intake.arrivals, inputs.policy.reassign
    found = clean_parts(raw, inputs.items, arrivals, settings.tasks, not_after=inputs.now, may_reassign=may_reassign)
    parts = []
    for part in found:
        with job.watching(f"reading {part.table.name}"):
            job.say(f"{part.table.name}: {part.rows:,} raw rows")
        for line in judge(part, specs.get(part.table.name), settings.gates.largest_rejected_share):
            job.say(f"warning: {line}")
        parts.append(part)
    parts.sort(key=lambda part: part.table is not ITEMS)  # events are never stored before their items
    for part in parts:
        if part.table is EVENTS:
            _check_tasks(part, inputs.events)
    for line in doubts_about_order(parts):
        job.say(f"warning: {line}")
    return parts


def _check_tasks(log: Part, stored: DataFrame | None) -> None:
    """Look for the tasks that no event of tonight belongs to among all events."""
    missing = {name: task for name, task in log.tasks.items() if name not in log.tasks_met}
    known = [frame.select(c.SCENE, c.ACTION) for frame in (log.cleaned.accepted, stored) if frame is not None]
    check_tasks(reduce(DataFrame.union, known), missing)


def store(job: Job, inputs: Inputs, parts: Sequence[Part]) -> tuple[int, int, int]:
    """Put the rows away, and write down which files were taken; returns rows in, accepted, rejected."""
    plans: list[UpsertPlan | None]
    if inputs.is_increment:
        plans = [_plan(job, inputs, part) for part in parts]  # all of them before the first is written
    else:
        for part in parts:
            _refuse_to_wipe(job, part)
        plans = [None] * len(parts)
    totals = [0, 0, 0]
    for part, plan in zip(parts, plans, strict=True):
        counts = _store(job, inputs, part, plan)
        totals = [total + rows for total, rows in zip(totals, counts, strict=True)]
    _remember(job, inputs, parts)
    return totals[0], totals[1], totals[2]


def _plan(job: Job, inputs: Inputs, part: Part) -> UpsertPlan:
    source = job.settings.source
    if job.warehouse.exists(part.table):
        job.pin(part.table)  # tonight's rows were compared with this version
    # The id of an event without one is made from what it says, its time included.
    ids_are_made = isinstance(source, FilesSource) and source.events.event_id is None
    with job.watching(f"comparing with {part.table.name}"):
        plan = plan_upsert(
            job.warehouse,
            job.spark,
            part.table,
            part.cleaned.accepted,
            rows=part.accepted_rows,
            newest_by=NEWEST_BY.get(part.table.name),
            span=part.period if part.table is EVENTS and ids_are_made else None,
        )
    number = 0 if inputs.policy.reassign else plan.counts.get(REASSIGNED, 0)
    refuse_other_users(part.table, plan.compared.where(F.col(STATE) == REASSIGNED), number, "that was taken before")
    return plan


def _refuse_to_wipe(job: Job, part: Part) -> None:
    if not job.warehouse.exists(part.table) or part.accepted_rows:
        return
    version = job.warehouse.version(part.table)
    if not job.warehouse.read(job.spark, part.table, version).isEmpty():
        raise DataError(
            f"table {part.table.name}: the source has no acceptable row for it; version {version} and its rows stay"
        )


def _store(job: Job, inputs: Inputs, part: Part, plan: UpsertPlan | None) -> tuple[int, int, int]:
    if part.table is ITEMS:
        cut, repaired = part.changed_texts
        job.metrics |= {"items/texts_cut": cut, "items/texts_repaired": repaired}
    quarantine, rejected = REJECTED[part.table.name], _stamped(part.cleaned.rejected, job, inputs.now)
    if plan is None:
        accepted_rows = job.write(part.table, part.cleaned.accepted)
        return part.rows, accepted_rows, job.write(quarantine, rejected)
    job.require_held()
    with job.watching(f"adding to {part.table.name}"):
        result = plan.commit(job.run_id)
    job.added(part.table, result)
    # By file: a file that is taken again takes its old rejections with it.
    files = [arrival.path for arrival in part.arrivals] or sorted(part.rows_by_file)
    put = partial(replace_values, job.warehouse, job.spark, quarantine, rejected, c.SOURCE_FILE, files)
    rows = put(run_id=job.run_id, rows=part.rejected_rows)
    job.output_versions[quarantine.name] = job.warehouse.version(quarantine)
    job.say(f"{quarantine.name}: {rows:,} rows of tonight's files")
    return part.rows, result.rows, rows


def _remember(job: Job, inputs: Inputs, parts: Sequence[Part]) -> None:
    """Write down which files were taken. Last: a run that dies before takes them again, which changes nothing."""
    if not isinstance(job.settings.source, FilesSource):
        return
    # A full reading leaves the rows of the files it read, and of no other.
    is_read = {name for name, arrivals in inputs.intake.arrivals.items() if arrivals}
    kept = [one for one in inputs.records if inputs.is_increment or one[c.TABLE_NAME] not in is_read]
    records = {(record[c.TABLE_NAME], record[c.PATH]): record for record in kept}
    for part in parts:
        table_id = job.warehouse.table_id(part.table)
        for arrival in part.arrivals:
            rows = part.rows_by_file.get(arrival.path, 0)
            record = arrival.record(part.table.name, table_id, rows, job.run_id, inputs.now)
            records[part.table.name, arrival.path] = record
    job.write_records(SOURCE_FILES, list(records.values()))


def _stamped(rejected: DataFrame, job: Job, now: datetime) -> DataFrame:
    """Rejected rows as rows of their table."""
    return rejected.withColumns({c.RUN_ID: F.lit(job.run_id), c.REJECTED_AT: F.lit(now)})


def settle_sizes(job: Job, now: datetime) -> None:
    """Choose the sizes that the configuration leaves out, the first time; this run has them from then on.

    Nothing is chosen with `sizes: defaults`, nor while there is no event before `as_of`.
    """
    settings = job.settings
    if settings.sizes != BY_LOG or EVENTS.name not in job.output_versions:
        return
    if sizes := read_sizes(job.root):
        rows = DeltaSnapshot(job.warehouse.path(EVENTS), job.output_versions[EVENTS.name]).row_count()
        job.say(kept_line(settings, sizes, rows))
        return
    with job.watching("choosing sizes"):
        profile = profile_of(job.read_written(EVENTS), settings.as_of)
    if profile is None:
        job.say("sizes: no event before as_of to choose them by; the defaults hold until there is one")
        return
    sizes = write_sizes(job.root, profile, now)
    job.settings = with_sizes(settings, sizes)
    for line in size_lines(settings, sizes):
        job.say(line)


def gather_quarantine(job: Job, table: Table, spec: TableInput, now: datetime) -> Quarantine:
    """What was rejected of a table, and what it is judged by: the catalog as this run has left it."""
    rejected = job.read(REJECTED[table.name])
    version = job.pin(SOURCE_FILES) if job.warehouse.exists(SOURCE_FILES) else None
    records = [one for one in read_manifest(job.warehouse, version) if one[c.TABLE_NAME] == table.name]
    items = None
    if table is not ITEMS:
        items = job.read_written(ITEMS) if ITEMS.name in job.output_versions else job.read(ITEMS)
    return Quarantine(
        table=table,
        spec=spec,
        rejected=rejected,
        stored=job.read_optional(table),
        items=items,
        sequences={record[c.PATH]: record["sequence"] for record in records if record["size_bytes"]},
        erased=ErasureList.of(job.root),
        not_after=now,
    )


def move(job: Job, quarantine: Quarantine, cleaned: Cleaned) -> tuple[int, int, int]:
    """Add the rows that pass to the table, then leave them out of the quarantine; returns rows in, moved, staying.

    A run that dies between the two commits has lost nothing: the rows are found stored by the next one.
    """
    table, rows_in = quarantine.table, quarantine.rejected.count()
    newest_by = NEWEST_BY.get(table.name)
    job.require_held()
    result = upsert(job.warehouse, job.spark, table, cleaned.accepted, run_id=job.run_id, newest_by=newest_by)
    job.added(table, result)
    still = _stamped(cleaned.rejected, job, quarantine.not_after).unionByName(quarantine.final)
    return rows_in, result.rows, job.write(REJECTED[table.name], still)
