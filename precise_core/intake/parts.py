"""The rows of one night by table: cleaned, counted, and checked as a whole before anything is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, reduce
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from precise_core.config.tasks import TaskConfig
from precise_core.errors import DataError
from precise_core.intake.cleaning import (
    DUPLICATE,
    ID_OF_ANOTHER_USER,
    Cleaned,
    clean,
    clean_items,
    missing_word,
    text_is_cut,
    text_is_repaired,
    with_file_sequence,
)
from precise_core.intake.event_order import doubtful_order
from precise_core.intake.refusals import refuse_misread_times, refuse_other_users, refuse_rejections
from precise_core.intake.stock import Arrival
from precise_core.sources.config import TableInput
from precise_core.sources.raw import RawTables, items_of_events
from precise_core.tasks import task_filter
from precise_core.warehouse.spark_errors import unreadable_files
from schemas import EVENTS, IMPRESSIONS, ITEMS, Table
from schemas import columns as c

_TASK, _CUT, _REPAIRED = "task:", "cut", "repaired"


@dataclass(frozen=True, kw_only=True)
class Part:
    """The rows of one table, cleaned; all that is known of them is counted in one pass.

    Args:
        arrivals: The files they came from; none of a source that is not read by file.
        catalog: The items that the rows must be about; None of items themselves, or where these are made of the events.
        tasks: Of which it is wanted to know whether an accepted event belongs to them.
    """

    table: Table
    cleaned: Cleaned
    arrivals: Sequence[Arrival] = field(default_factory=list)
    catalog: DataFrame | None = None
    tasks: Mapping[str, TaskConfig] = field(default_factory=dict)

    @cached_property
    def rows_by_file(self) -> dict[str, int]:
        """Raw rows by file; the first count reads and checks all rows, and keeps them."""
        return self._added_up(c.SOURCE_FILE)

    @property
    def rows(self) -> int:
        return sum(self.rows_by_file.values())

    @property
    def accepted_rows(self) -> int:
        return self.reasons.get(None, 0)

    @property
    def rejected_rows(self) -> int:
        return self.rows - self.accepted_rows

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
    def tasks_met(self) -> set[str]:
        """The ``tasks`` that an accepted event belongs to."""
        return {name for name in self.tasks for row in self._counts if row[c.REASON] is None and row[_TASK + name]}

    @property
    def changed_texts(self) -> tuple[int, int]:
        """Raw items whose title or description is cut, and those with text that is repaired."""
        return sum(row[_CUT] for row in self._counts), sum(row[_REPAIRED] for row in self._counts)

    @property
    def rows_by_word(self) -> dict[tuple[str, str], int]:
        """Accepted rows by id column and word, where the id is a word that usually means a missing one."""
        words = {(name, word): rows for name in self._ids for word, rows in self._added_up(name).items()}
        return {(name, word): rows for (name, word), rows in words.items() if word is not None}

    @property
    def _ids(self) -> list[str]:
        return [name for name in (c.USER_ID, c.ITEM_ID) if name in self.table.column_names]

    def _added_up(self, column: str) -> dict[Any, int]:
        rows: Counter[Any] = Counter()
        for row in self._counts:
            rows[row[column]] += row["rows"]
        return rows

    @cached_property
    def _counts(self) -> list[Row]:
        words = [missing_word(name) for name in self._ids]
        with unreadable_files():
            return self.cleaned.checked.groupBy(c.SOURCE_FILE, c.REASON, *words).agg(*self._figures()).collect()

    def _figures(self) -> list[Column]:
        time = self.table.range_by
        micros = F.lit(None).cast("bigint") if time is None else F.unix_micros(time)
        figures = [F.count("*").alias("rows"), F.min(micros).alias("first"), F.max(micros).alias("last")]
        if self.table is ITEMS:
            figures += [F.count_if(text_is_cut()).alias(_CUT), F.count_if(text_is_repaired()).alias(_REPAIRED)]
        if self.table is EVENTS:
            figures += [F.max(task_filter(task)).alias(_TASK + name) for name, task in self.tasks.items()]
        return figures

    def require_rows_of_every_file(self) -> None:
        """Refuse a night in which Spark has read other files than those that were listed.

        Raises:
            DataError: A file that has rows gave none, or rows came from a file that nobody listed.
        """
        silent = [one.file for one in self.arrivals if one.must_have_rows and one.path not in self.rows_by_file]
        if silent:
            raise DataError(f"{silent[0]}: it has rows, but Spark read none of them ({len(silent)} such files)")
        strangers = sorted(self.rows_by_file.keys() - {one.path for one in self.arrivals}) if self.arrivals else []
        if strangers:
            raise DataError(f"{strangers[0]}: Spark read it, but the source does not name it")


def clean_parts(
    raw: RawTables,
    items: DataFrame | None,
    arrivals: Mapping[str, Sequence[Arrival]],
    tasks: Mapping[str, TaskConfig],
    *,
    not_after: datetime,
    may_reassign: bool,
) -> Iterator[Part]:
    """Items, events, impressions: those of which something was read, each row checked once and persisted.

    One part is to be counted before the next is asked for: it is planned by the number of items there are, and where
    the catalog is made of the events, these come first.

    Args:
        items: The stored catalog that new items are added to; None where there is none.

    Raises:
        DataError: There is no catalog, neither read nor stored.
    """

    def part(table: Table, frame: DataFrame, catalog: DataFrame | None) -> Part:
        files = arrivals.get(table.name, [])
        sequences = {one.path: one.sequence for one in files if one.must_have_rows}
        cleaned = clean(
            table, with_file_sequence(frame, sequences), catalog, not_after=not_after, may_reassign=may_reassign
        )
        return _kept(Part(table=table, cleaned=cleaned, arrivals=files, catalog=catalog, tasks=tasks))

    catalogs = [] if items is None else [items]
    logs = {EVENTS: raw.events, IMPRESSIONS: raw.impressions}
    own = None if raw.items is None else part(ITEMS, raw.items, None)
    if not raw.has_catalog and raw.events is not None:
        log = part(EVENTS, raw.events, None)
        yield log
        logs[EVENTS] = None
        own = _kept(Part(table=ITEMS, cleaned=clean_items(items_of_events(log.cleaned.checked), are_distinct=True)))
    if own is not None:
        yield own
        catalogs.append(own.cleaned.accepted)
    if not catalogs:
        raise DataError("no catalog: `items` was never taken and none of its files is there")
    catalog = catalogs[0] if len(catalogs) == 1 else reduce(DataFrame.union, map(_ids, catalogs)).distinct()
    yield from (part(table, frame, catalog) for table, frame in logs.items() if frame is not None)


def _kept(part: Part) -> Part:
    part.cleaned.checked.persist(StorageLevel.DISK_ONLY)
    return part


def _ids(items: DataFrame) -> DataFrame:
    return items.select(c.ITEM_ID)


def judge(part: Part, spec: TableInput | None, largest_rejected_share: float) -> Iterator[str]:
    """Warnings about rows that are accepted; ``spec`` says how own files are read, and is None of another source."""
    table, checked, reasons = part.table, part.cleaned.checked, part.reasons
    part.require_rows_of_every_file()
    if spec is not None:
        yield from _missing_words(part, {c.ITEM_ID: spec.item, c.USER_ID: getattr(spec, "user", "")})
    theirs = checked.where(F.col(c.REASON) == ID_OF_ANOTHER_USER)
    refuse_other_users(table, theirs, reasons.get(ID_OF_ANOTHER_USER, 0), "that is read tonight, too")
    refuse_rejections(table, checked, reasons, largest_rejected_share, spec, part.catalog)
    if part.period is not None:
        refuse_misread_times(table, *part.period, spec)
    repeated, total = reasons.get(DUPLICATE[table.name], 0), sum(reasons.values())
    if repeated > largest_rejected_share * total:
        yield f"{table.name}: {repeated:,} of {total:,} rows repeat the {table.key[0]} of another"


def _missing_words(part: Part, columns: Mapping[str, str]) -> Iterator[str]:
    name = part.table.name
    for (column, word), rows in sorted(part.rows_by_word.items()):
        yield (
            f"{name}: {rows:,} rows have {word!r} in column {columns[column]!r}, and it is taken for an id; where it "
            f"means that there is none, put it into `source.{name}.null_values`"
        )


def doubts_about_order(parts: Sequence[Part]) -> list[str]:
    """Why tonight's log may not be in the order of time; empty where it is, or there is no log."""
    findings = [doubtful_order(part.cleaned.accepted, part.rows) for part in parts if part.table is EVENTS]
    return [f"events: {finding}" for finding in findings if finding is not None]
