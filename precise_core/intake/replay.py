"""Rows of a quarantine judged again by today's catalog, clock and configuration, from the JSON kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.intake.cleaning import (
    ERASED,
    ID_OF_ANOTHER_USER,
    Cleaned,
    clean_events,
    clean_impressions,
    clean_items,
    hide_erased_rows,
    with_file_order,
)
from precise_core.intake.night import NEWEST_BY, REJECTED, stamped
from precise_core.intake.replay_order import file_sequences, outdated_keys
from precise_core.run.job import Job
from precise_core.sources.cells import Need
from precise_core.sources.config import FileInput
from precise_core.sources.files import read_mapped
from precise_core.sources.raw import MALFORMED_ROW, PROBLEM
from precise_core.sources.text_formats import json_cells
from precise_core.warehouse.erasure_list import ErasureList
from precise_core.warehouse.upsert import CORRECTED, REASSIGNED, STATE, compare, upsert
from schemas import ITEMS, Table
from schemas import columns as c

_DUPLICATE = {"events": "duplicate_event", "items": "duplicate_item", "impressions": "duplicate_impression"}
_IS_ANOTHERS = "is_stored_of_another_user"
_IS_LATE = "is_stored_in_a_newer_version"


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The quarantine of one table.

    A malformed row cannot become another one, and a duplicate stays one; all others are asked again.

    Args:
        job: The run.
        table: The table that rows may move into.
        spec: How its rows are read, as configured today.
        now: Rows later than this stay.
    """

    job: Job
    table: Table
    spec: FileInput
    now: datetime

    @cached_property
    def cleaned(self) -> Cleaned:
        """The rows that are asked again, accepted or not; one that is stored in a newer version is a duplicate, one
        whose key is a row of another user stays."""
        cleaned, stored = self._clean(self._raw), self.job.read_optional(self.table)
        cleaned.checked.persist(StorageLevel.DISK_ONLY)
        if stored is None:
            return cleaned
        corrections = self._corrections(cleaned, stored)
        if corrections.isEmpty():
            return cleaned
        key = self.table.key[0]
        late = outdated_keys(self.job, self.table, stored, corrections)
        others = compare(stored, cleaned.accepted, self.table).where(F.col(STATE) == REASSIGNED)
        marked = self._raw.join(late.select(key, F.lit(True).alias(_IS_LATE)), on=key, how="left")
        marked = marked.join(others.select(key, F.lit(True).alias(_IS_ANOTHERS)), on=key, how="left")
        problem = F.when(F.col(_IS_LATE), F.lit(_DUPLICATE[self.table.name]))
        problem = problem.when(F.col(_IS_ANOTHERS), F.lit(ID_OF_ANOTHER_USER))
        marked = marked.withColumn(PROBLEM, F.coalesce(PROBLEM, problem)).select(*self._raw.columns)
        cleaned = self._clean(marked)
        cleaned.checked.persist(StorageLevel.DISK_ONLY)
        return cleaned

    def _corrections(self, cleaned: Cleaned, stored: DataFrame) -> DataFrame:
        """Key and file of the rows under whose key another one is stored, and no time says which is newer."""
        key, newest_by = self.table.key[0], NEWEST_BY.get(self.table.name)
        found = cleaned.checked.where(F.col(c.REASON).isNull()).select(key, c.SOURCE_FILE)
        for one, other in ((stored, cleaned.accepted), (cleaned.accepted, stored)):
            differs = compare(one, other, self.table, newest_by).where(F.col(STATE).isin(CORRECTED, REASSIGNED))
            found = found.join(differs.select(key), on=key, how="left_semi")
        return found.persist(StorageLevel.DISK_ONLY)

    def move(self) -> tuple[int, int, int]:
        """Add the rows that pass to the table, then leave them out of the quarantine; returns rows in, moved, staying.

        A run that dies between the two commits has lost nothing: the rows are found stored by the next one.
        """
        rows_in = self._rejected.count()
        result = upsert(
            self.job.warehouse,
            self.job.spark,
            self.table,
            self.cleaned.accepted,
            run_id=self.job.run_id,
            newest_by=NEWEST_BY.get(self.table.name),
        )
        self.job.added(self.table, result)
        still = stamped(self.cleaned.rejected, self.job.run_id, self.now).unionByName(
            self._rejected.where(self._is_final)
        )
        return rows_in, result.rows, self.job.write(REJECTED[self.table.name], still)

    @cached_property
    def _rejected(self) -> DataFrame:
        return self.job.read(REJECTED[self.table.name])

    @property
    def _is_final(self) -> Column:
        return F.col(c.REASON).isin(MALFORMED_ROW, ERASED, _DUPLICATE[self.table.name])

    @cached_property
    def _raw(self) -> DataFrame:
        asked = self._rejected.where(~self._is_final)

        def read(needs: Sequence[Need]) -> DataFrame:
            return json_cells(asked, needs, F.col(c.RAW), F.col(c.SOURCE_FILE))

        raw = with_file_order(read_mapped(self.job.spark, self.spec, read), file_sequences(self.job, self.table))
        return raw if self.table is ITEMS else hide_erased_rows(raw, ErasureList.of(self.job.folder))

    def _clean(self, raw: DataFrame) -> Cleaned:
        if self.table is ITEMS:
            return clean_items(raw)
        written = ITEMS.name in self.job.output_versions
        items = self.job.read_written(ITEMS) if written else self.job.read(ITEMS)
        clean = clean_events if self.table.name == "events" else clean_impressions
        return clean(raw, items, not_after=self.now)
