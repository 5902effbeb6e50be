"""Rows of a quarantine judged again by today's catalog, clock and configuration, from the JSON kept of them.

Of two versions of a row the one of the file taken later stays. A stored row does not say which file it is from; the
table's older versions do: a row that is stored as it was before the quarantined one's file was taken is older than that
file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, reduce
from typing import Any

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
    with_file_order,
)
from precise_core.intake.stock import Record
from precise_core.sources.cells import Need
from precise_core.sources.config import TableInput
from precise_core.sources.files import read_mapped
from precise_core.sources.raw import MALFORMED_ROW, PROBLEM
from precise_core.sources.text_formats import json_cells
from precise_core.warehouse.erasure_list import ErasureList
from precise_core.warehouse.upsert import CORRECTED, KEPT, REASSIGNED, STATE, compare
from schemas import ITEMS, Table
from schemas import columns as c

_IS_ANOTHERS = "is_stored_of_another_user"
_IS_LATE = "is_stored_in_a_newer_version"


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """What the rows that were rejected of one table are judged by.

    Args:
        spec: How its rows are read, as configured today.
        stored: The rows of the table; None where it does not exist.
        items: The catalog; None where the rows are the catalog themselves.
        sequences: Path -> order of taking, of the files taken into the table.
        versions: ``versions_before_files``.
        not_after: Rows later than this stay.
    """

    table: Table
    spec: TableInput
    rejected: DataFrame
    stored: DataFrame | None
    items: DataFrame | None
    sequences: Mapping[str, int]
    versions: Mapping[str, int]
    erased: ErasureList
    not_after: datetime

    @cached_property
    def raw(self) -> DataFrame:
        """The rows that are judged again, in the raw shape."""
        rows = self.rejected.where(~self._is_final)

        def read(needs: Sequence[Need]) -> DataFrame:
            return json_cells(rows, needs, F.col(c.RAW), F.col(c.SOURCE_FILE))

        raw = with_file_order(read_mapped(rows.sparkSession, self.spec, read), self.sequences)
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


def versions_before_files(
    records: Sequence[Record], runs: Sequence[Mapping[str, Any]], table: Table, table_id: str
) -> dict[str, int]:
    """Path -> the version of the table that its file was added to.

    Left out are files of a full reading or of the first night, which found no row to correct, and Delta and database
    tables, which hold old and new versions of a row side by side.

    Args:
        runs: run_id and input_versions of the rows of `runs`.
    """
    found = {run[c.RUN_ID]: dict(run["input_versions"]).get(table.name) for run in runs}
    files = [one for one in records if one[c.TABLE_NAME] == table.name and one["table_id"] == table_id]
    versions = {one[c.PATH]: found.get(one[c.RUN_ID]) for one in files if one["size_bytes"]}
    return {path: version for path, version in versions.items() if version is not None}


def corrections(quarantine: Quarantine, cleaned: Cleaned, stored: DataFrame) -> DataFrame:
    """Key and file of the rows under whose key another one is stored, and no time says which is newer."""
    table, newest_by = quarantine.table, NEWEST_BY.get(quarantine.table.name)
    found = cleaned.checked.where(F.col(c.REASON).isNull()).select(*table.key, c.SOURCE_FILE)
    for one, other in ((stored, cleaned.accepted), (cleaned.accepted, stored)):
        differs = compare(one, other, table, newest_by).where(F.col(STATE).isin(CORRECTED, REASSIGNED))
        found = found.join(differs.select(*table.key), on=list(table.key), how="left_semi")
    return found.persist(StorageLevel.DISK_ONLY)


def keys_by_version(quarantine: Quarantine, corrected: DataFrame) -> dict[int | None, DataFrame]:
    """The keys of ``corrections`` by the version of the table that their file was added to; None: unknown."""
    files: dict[int | None, list[str]] = defaultdict(list)
    for row in corrected.select(c.SOURCE_FILE).distinct().collect():
        files[quarantine.versions.get(row[c.SOURCE_FILE])].append(row[c.SOURCE_FILE])
    key = quarantine.table.key
    return {version: corrected.where(F.col(c.SOURCE_FILE).isin(of)).select(*key) for version, of in files.items()}


def changed_keys(before: DataFrame, stored: DataFrame, keys: DataFrame, table: Table) -> DataFrame:
    """Those of ``keys`` under which ``stored`` says something else than ``before``."""
    now = stored.join(keys, on=list(table.key), how="left_semi")
    return compare(before, now, table).where(F.col(STATE) != KEPT).select(*table.key)


def judged_beside_stored(
    quarantine: Quarantine, cleaned: Cleaned, stored: DataFrame, newer: Sequence[DataFrame]
) -> Cleaned:
    """``cleaned``, but a row that is stored in a newer version is a duplicate, and one with another user's key stays.

    Args:
        newer: Keys under which something is stored that came after the quarantined row, or may have.
    """
    table, key = quarantine.table, list(quarantine.table.key)
    late = reduce(DataFrame.unionByName, newer)
    others = compare(stored, cleaned.accepted, table).where(F.col(STATE) == REASSIGNED)
    marked = quarantine.raw.join(late.select(*key, F.lit(True).alias(_IS_LATE)), on=key, how="left")
    marked = marked.join(others.select(*key, F.lit(True).alias(_IS_ANOTHERS)), on=key, how="left")
    problem = F.when(F.col(_IS_LATE), F.lit(DUPLICATE[table.name]))
    problem = problem.when(F.col(_IS_ANOTHERS), F.lit(ID_OF_ANOTHER_USER))
    marked = marked.withColumn(PROBLEM, F.coalesce(PROBLEM, problem))
    return quarantine.judged(marked.select(*quarantine.raw.columns))
