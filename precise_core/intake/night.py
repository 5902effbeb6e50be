"""One night's intake: rows read and checked against what is stored, and how each kind of rows is put away.

Own files are taken once (precise_core/intake/stock.py): new rows are added, corrected ones replaced. Other sources
are read whole, and so are own files with --full: the table becomes what the source says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, reduce
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from precise_core.errors import DataError
from precise_core.intake.cleaning import (
    DUPLICATES,
    ID_OF_ANOTHER_USER,
    Cleaned,
    clean_events,
    clean_impressions,
    clean_items,
    count_changed_texts,
)
from precise_core.intake.erasures import hide_erased
from precise_core.intake.event_order import doubtful_order
from precise_core.intake.missing_words import IDS, missing_word
from precise_core.intake.read import read_source
from precise_core.intake.refusals import refuse_misread_times, refuse_other_users, refuse_rejections
from precise_core.intake.stock import Arrival, Intake, Policy, take_stock, with_file_order
from precise_core.run.job import Job
from precise_core.sources.config import FilesSource
from precise_core.sources.files import inputs_of
from precise_core.sources.manifest import read_manifest
from precise_core.tasks import check_tasks
from precise_core.warehouse.erasure_list import ErasureList
from precise_core.warehouse.spark_errors import unreadable_files
from precise_core.warehouse.upsert import REASSIGNED, STATE, UpsertPlan, plan_upsert, replace_values
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
TIMES: Mapping[str, str] = {EVENTS.name: c.EVENT_TS, IMPRESSIONS.name: c.IMPRESSION_TS}
# Of two versions of an item the one that was updated last stays, whichever file says so, where both say when.
NEWEST_BY: Mapping[str, str] = {ITEMS.name: c.UPDATED_TS}


@dataclass(frozen=True, kw_only=True)
class Part:
    """The rows of one table: as they came, and what became of them."""

    table: Table
    raw: DataFrame
    cleaned: Cleaned
    arrivals: list[Arrival] = field(default_factory=list)

    @cached_property
    def rows_by_file(self) -> dict[str, int]:
        """Raw rows by file; the first time this is asked, all rows are read, checked and kept."""
        return self._added_up(c.SOURCE_FILE)

    @property
    def reasons(self) -> dict[str | None, int]:
        """Raw rows by what is wrong with them; None = accepted."""
        return self._added_up(c.REASON)

    @property
    def period(self) -> tuple[int, int] | None:
        """First and last accepted time in microseconds since 1970; None where there is none."""
        times = [(row["first"], row["last"]) for row in self._counts if row[c.REASON] is None and row["first"]]
        return (min(first for first, _ in times), max(last for _, last in times)) if times else None

    @property
    def rows_by_word(self) -> dict[tuple[str, str], int]:
        """Accepted rows by id column and word, where the id is a word that usually stands for a missing one."""
        words = {(name, word): rows for name in IDS[self.table.name] for word, rows in self._added_up(name).items()}
        return {(name, word): rows for (name, word), rows in words.items() if word is not None}

    def _added_up(self, column: str) -> dict[Any, int]:
        rows: Counter[Any] = Counter()
        for row in self._counts:
            rows[row[column]] += row["rows"]
        return rows

    @cached_property
    def _counts(self) -> list[Row]:
        time = TIMES.get(self.table.name)
        micros = F.lit(None).cast("bigint") if time is None else F.unix_micros(time)
        figures = [F.count("*").alias("rows"), F.min(micros).alias("first"), F.max(micros).alias("last")]
        words = [missing_word(name) for name in IDS[self.table.name]]
        with unreadable_files():
            return self.cleaned.checked.groupBy(c.SOURCE_FILE, c.REASON, *words).agg(*figures).collect()

    def require_rows_of_every_file(self) -> None:
        """Refuse to go on where Spark has read other files than those that were listed.

        Raises:
            DataError: A file that has rows gave none, or rows came from a file that nobody listed.
        """
        silent = [one.file for one in self.arrivals if one.must_have_rows and one.path not in self.rows_by_file]
        if silent:
            raise DataError(f"{silent[0]}: it has rows, but Spark read none of them ({len(silent)} such files)")
        strangers = sorted(self.rows_by_file.keys() - {one.path for one in self.arrivals}) if self.arrivals else []
        if strangers:
            raise DataError(f"{strangers[0]}: Spark read it, but the source does not name it")


class Ingestion:
    """What one run of `ingest` reads and where it goes.

    Args:
        job: The run.
        now: Rows later than this are rejected.
        policy: What the command line says about files.
    """

    def __init__(self, job: Job, now: datetime, policy: Policy) -> None:
        self._job, self._now, self._policy = job, now, policy
        source = job.settings.source
        self._is_increment = isinstance(source, FilesSource) and not policy.full
        version = job.pin(SOURCE_FILES) if job.warehouse.exists(SOURCE_FILES) else None
        self.known = read_manifest(job.warehouse, version)
        self._intake = Intake()
        if isinstance(source, FilesSource):
            self._intake = take_stock(job.spark, source, self.known, self._table_ids(source), policy)
            for line in self._intake.said:
                job.say(line)

    def read(self) -> list[Part]:
        """Items, events, impressions: those that bring something tonight, each source row read and checked once.

        Raises:
            DataError: Nearly all rows of a table are rejected, their times are misread, or their ids belong to others.
            ConfigError: A task has no event, neither new nor stored.
        """
        batches = self._intake.batches if isinstance(self._job.settings.source, FilesSource) else None
        read = read_source(self._job.spark, self._job.settings.source, batches)
        raw = hide_erased(read, ErasureList.of(self._job.folder))
        parts: list[Part] = []
        items = self._stored(ITEMS)
        if raw.items is not None:
            parts.append(self._part(ITEMS, raw.items, clean_items(self._ordered(ITEMS, raw.items))))
            accepted = parts[0].cleaned.accepted
            items = accepted if items is None else _ids(accepted).union(_ids(items)).distinct()
        if items is None:
            raise DataError("no catalog: `items` was never taken and none of its files is there")
        for table, frame, clean in (
            (EVENTS, raw.events, clean_events),
            (IMPRESSIONS, raw.impressions, clean_impressions),
        ):
            if frame is not None:
                may_reassign = self._policy.reassign
                cleaned = clean(self._ordered(table, frame), items, not_after=self._now, may_reassign=may_reassign)
                parts.append(self._part(table, frame, cleaned))
        for part in parts:
            with self._job.watching(f"reading {part.table.name}"):
                self._job.say(f"{part.table.name}: {sum(part.rows_by_file.values()):,} raw rows")
            part.require_rows_of_every_file()
            self._warn_of_words(part)
            self._refuse_unusable(part, items)
        self._check_tasks(parts)
        self._warn_of_order(parts)
        return parts

    def _warn_of_words(self, part: Part) -> None:
        source = self._job.settings.source
        spec = inputs_of(source).get(part.table.name) if isinstance(source, FilesSource) else None
        if spec is None:
            return
        columns = {c.ITEM_ID: spec.item, c.USER_ID: getattr(spec, "user", "")}
        for (name, word), rows in sorted(part.rows_by_word.items()):
            self._job.say(
                f"warning: {part.table.name}: {rows:,} rows have {word!r} in column {columns[name]!r}, and it is taken "
                f"for an id; where it means that there is none, put it into `source.{part.table.name}.null_values`"
            )

    def store(self, parts: list[Part]) -> list[tuple[int, int, int]]:
        """Put the rows away; returns rows in, accepted, rejected of every part.

        Raises:
            DataError: A full reading has no acceptable row for a table that has some, or rows have the ids of other
                users' rows; nothing was written.
        """
        if not self._is_increment:
            for part in parts:
                self._refuse_to_wipe(part)
            return [self._store(part, None) for part in parts]
        plans = [self._plan(part) for part in parts]  # all of them before the first is written
        return [self._store(part, plan) for part, plan in zip(parts, plans, strict=True)]

    def _store(self, part: Part, plan: UpsertPlan | None) -> tuple[int, int, int]:
        if part.table is ITEMS:
            cut, repaired = count_changed_texts(part.cleaned.checked)
            self._job.metrics |= {"items/texts_cut": cut, "items/texts_repaired": repaired}
        rejected = stamped(part.cleaned.rejected, self._job.run_id, self._now)
        if plan is not None:
            accepted_rows = self._add(part, plan)
            rejected_rows = self._replace_rejected(part, rejected)
        else:
            accepted_rows = self._job.write(part.table, part.cleaned.accepted)
            rejected_rows = self._job.write(REJECTED[part.table.name], rejected)
        return part.raw.count(), accepted_rows, rejected_rows

    def remember(self, parts: list[Part]) -> None:
        """Write down which files were taken. Last: a run that dies before takes them again, which changes nothing."""
        if not isinstance(self._job.settings.source, FilesSource):
            return
        # A full reading leaves the rows of the files it read, and of no other.
        kept = [record for record in self.known if self._is_increment or not self._is_read(record[c.TABLE_NAME])]
        records = {(record[c.TABLE_NAME], record[c.PATH]): record for record in kept}
        for part in parts:
            table_id = self._job.warehouse.table_id(part.table)
            for arrival in part.arrivals:
                rows = part.rows_by_file.get(arrival.path, 0)
                record = arrival.record(part.table.name, table_id, rows, self._job.run_id, self._now)
                records[part.table.name, arrival.path] = record
        self._job.write_records(SOURCE_FILES, list(records.values()))

    def _is_read(self, table_name: str) -> bool:
        return bool(self._intake.arrivals.get(table_name))

    def _table_ids(self, source: FilesSource) -> dict[str, str]:
        warehouse = self._job.warehouse
        there = [table for table in (EVENTS, ITEMS, IMPRESSIONS) if warehouse.exists(table)]
        ids = {table.name: warehouse.table_id(table) for table in there}
        if source.items is None and ITEMS.name not in ids:
            ids.pop(EVENTS.name, None)  # the catalog was made of the events: it is theirs to bring back
        return ids

    def _stored(self, table: Table) -> DataFrame | None:
        """What earlier nights left, where tonight only adds to it."""
        return self._job.read_optional(table) if self._is_increment else None

    def _ordered(self, table: Table, raw: DataFrame) -> DataFrame:
        arrivals = self._intake.arrivals.get(table.name, [])
        order = {arrival.path: arrival.sequence for arrival in arrivals}
        return with_file_order(raw, order) if len(order) > 1 else raw

    def _part(self, table: Table, raw: DataFrame, cleaned: Cleaned) -> Part:
        cleaned.checked.persist(StorageLevel.DISK_ONLY)
        return Part(table=table, raw=raw, cleaned=cleaned, arrivals=self._intake.arrivals.get(table.name, []))

    def _check_tasks(self, parts: list[Part]) -> None:
        new = [part.cleaned.accepted for part in parts if part.table is EVENTS]
        if not new:
            return
        stored = self._stored(EVENTS)
        known = [frame.select(c.SCENE, c.ACTION) for frame in (*new, stored) if frame is not None]
        check_tasks(reduce(DataFrame.union, known), self._job.settings.tasks)

    def _warn_of_order(self, parts: list[Part]) -> None:
        for part in parts:
            if part.table is EVENTS:
                finding = doubtful_order(part.cleaned.accepted, sum(part.rows_by_file.values()))
                if finding is not None:
                    self._job.say(f"warning: events: {finding}")

    def _refuse_unusable(self, part: Part, items: DataFrame) -> None:
        table, checked, settings = part.table, part.cleaned.checked, self._job.settings
        own = inputs_of(settings.source) if isinstance(settings.source, FilesSource) else {}
        spec = own.get(table.name)
        number = part.reasons.get(ID_OF_ANOTHER_USER, 0)
        theirs = checked.where(F.col(c.REASON) == ID_OF_ANOTHER_USER)
        refuse_other_users(table, theirs, number, "that is read tonight, too")
        known = None if table is ITEMS else items
        refuse_rejections(table, checked, part.reasons, settings.gates.largest_rejected_share, spec, known)
        if part.period is not None:
            refuse_misread_times(table, *part.period, spec)
        repeated, total = sum(part.reasons.get(reason, 0) for reason in DUPLICATES), sum(part.reasons.values())
        if repeated > settings.gates.largest_rejected_share * total:
            self._job.say(f"warning: {table.name}: {repeated:,} of {total:,} rows repeat the {table.key[0]} of another")

    def _plan(self, part: Part) -> UpsertPlan:
        if self._job.warehouse.exists(part.table):
            self._job.pin(part.table)  # what a replay compares with (replay_order)
        with self._job.watching(f"comparing with {part.table.name}"):
            plan = plan_upsert(
                self._job.warehouse,
                self._job.spark,
                part.table,
                part.cleaned.accepted,
                newest_by=NEWEST_BY.get(part.table.name),
                key_fixes_partition=part.table is EVENTS and self._ids_are_made(),
            )
        number = 0 if self._policy.reassign else plan.counts.get(REASSIGNED, 0)
        theirs = plan.compared.where(F.col(STATE) == REASSIGNED)
        refuse_other_users(part.table, theirs, number, "that was taken before")
        return plan

    def _add(self, part: Part, plan: UpsertPlan) -> int:
        with self._job.watching(f"adding to {part.table.name}"):
            result = plan.commit(self._job.run_id)
        self._job.added(part.table, result)
        return result.rows

    def _ids_are_made(self) -> bool:
        """Whether an event's id is made from what it says, its time included."""
        source = self._job.settings.source
        return isinstance(source, FilesSource) and source.events.event_id is None

    def _replace_rejected(self, part: Part, rejected: DataFrame) -> int:
        # By file: a file that is taken again takes its old rejections with it.
        table = REJECTED[part.table.name]
        files = [arrival.path for arrival in part.arrivals] or sorted(part.rows_by_file)
        rows = replace_values(
            self._job.warehouse,
            self._job.spark,
            table,
            rejected,
            c.SOURCE_FILE,
            files,
            run_id=self._job.run_id,
        )
        self._job.output_versions[table.name] = self._job.warehouse.version(table)
        self._job.say(f"{table.name}: {rows:,} rows of tonight's files")
        return rows

    def _refuse_to_wipe(self, part: Part) -> None:
        warehouse = self._job.warehouse
        if not warehouse.exists(part.table) or not part.cleaned.accepted.isEmpty():
            return
        version = warehouse.version(part.table)
        if not warehouse.read(self._job.spark, part.table, version).isEmpty():
            raise DataError(
                f"table {part.table.name}: the source has no acceptable row for it; version {version} and its rows stay"
            )


def _ids(items: DataFrame) -> DataFrame:
    return items.select(c.ITEM_ID)


def stamped(rejected: DataFrame, run_id: str, now: datetime) -> DataFrame:
    """Rejected rows as rows of their table."""
    return rejected.withColumns({c.RUN_ID: F.lit(run_id), c.REJECTED_AT: F.lit(now)})
