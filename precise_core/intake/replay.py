"""Rows of a quarantine judged again by today's catalog, clock and configuration, from the JSON kept of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.intake.cleaning import (
    DUPLICATE,
    ERASED,
    ID_OF_ANOTHER_USER,
    NEWEST_BY,
    Cleaned,
    clean,
    hide_erased_rows,
    with_file_sequence,
)
from precise_core.sources.cells import Need
from precise_core.sources.config import TableInput
from precise_core.sources.files import read_mapped
from precise_core.sources.raw import MALFORMED_ROW, PROBLEM
from precise_core.sources.text_formats import json_cells
from precise_core.warehouse.erasure_list import ErasureList
from precise_core.warehouse.upsert import CORRECTED, REASSIGNED, STATE, compare
from schemas import ITEMS, Table
from schemas import columns as c

_STORED_SEQUENCE = "stored_sequence"
_STORED_PROBLEM = "problem_beside_the_stored_row"


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """What the rows that were rejected of one table are judged by.

    Args:
        spec: How its rows are read, as configured today.
        stored: The rows of the table; None where it does not exist.
        items: The catalog; None where the rows are the catalog themselves.
        sequences: Path -> order of taking, of the files taken into the table. Delta and database tables, which hold
            old and new versions of a row side by side, are not among them.
        not_after: Rows later than this stay.
    """

    table: Table
    spec: TableInput
    rejected: DataFrame
    stored: DataFrame | None
    items: DataFrame | None
    sequences: Mapping[str, int]
    erased: ErasureList
    not_after: datetime

    @cached_property
    def raw(self) -> DataFrame:
        """The rows that are judged again, in the raw shape."""
        rows = self.rejected.where(~self._is_final)

        def read(needs: Sequence[Need]) -> DataFrame:
            return json_cells(rows, needs, F.col(c.RAW), F.col(c.SOURCE_FILE))

        raw = with_file_sequence(read_mapped(rows.sparkSession, self.spec, read), self.sequences)
        return raw if self.table is ITEMS else hide_erased_rows(raw, self.erased)

    @property
    def final(self) -> DataFrame:
        """A malformed row cannot become another one, and a duplicate stays one."""
        return self.rejected.where(self._is_final)

    @property
    def _is_final(self) -> Column:
        return F.col(c.REASON).isin(MALFORMED_ROW, ERASED, DUPLICATE[self.table.name])

    def judged(self, raw: DataFrame) -> Cleaned:
        """``raw`` by the rules of today, kept."""
        cleaned = clean(self.table, raw, self.items, not_after=self.not_after)
        cleaned.checked.persist(StorageLevel.DISK_ONLY)
        return cleaned


def judge_again(quarantine: Quarantine) -> Cleaned:
    """The rows of a quarantine that a new verdict may be had of, by the rules of today and beside what is stored.

    A row of an earlier file than the stored one of its key is a duplicate, and so is one where a side has no file
    sequence; a row of a later file whose key another user has stays.
    """
    cleaned, stored = quarantine.judged(quarantine.raw), quarantine.stored
    if stored is None:
        return cleaned
    found = _problems(quarantine.table, cleaned.accepted, stored).persist(StorageLevel.DISK_ONLY)
    if found.isEmpty():
        return cleaned
    marked = quarantine.raw.join(found, on=list(quarantine.table.key), how="left")
    marked = marked.withColumn(PROBLEM, F.coalesce(PROBLEM, _STORED_PROBLEM))
    return quarantine.judged(marked.select(*quarantine.raw.columns))


def _problems(table: Table, accepted: DataFrame, stored: DataFrame) -> DataFrame:
    """The keys under which another row is stored, and no time says which is newer, with the problem of the new row."""
    key, newest_by, differs = list(table.key), NEWEST_BY.get(table.name), F.col(STATE).isin(CORRECTED, REASSIGNED)
    new = compare(stored, accepted, table, newest_by).where(differs).select(*key, c.FILE_SEQUENCE, STATE)
    old = compare(accepted, stored, table, newest_by).where(differs)
    both = new.join(old.select(*key, F.col(c.FILE_SEQUENCE).alias(_STORED_SEQUENCE)), on=key)
    is_newer = F.coalesce(F.col(c.FILE_SEQUENCE) > F.col(_STORED_SEQUENCE), F.lit(False))
    problem = F.when(~is_newer, DUPLICATE[table.name]).when(F.col(STATE) == REASSIGNED, ID_OF_ANOTHER_USER)
    return both.select(*key, problem.alias(_STORED_PROBLEM)).where(F.col(_STORED_PROBLEM).isNotNull())
