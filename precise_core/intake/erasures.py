"""Raw rows of erased users: counted, but no longer kept."""

from __future__ import annotations

from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.sources.raw import PROBLEM, RawTables
from precise_core.warehouse.erasure_list import ErasureList, phrases
from schemas import columns as c

ERASED = "erased"


def hide_erased(tables: RawTables, erased: ErasureList) -> RawTables:
    """The same rows; one of an erased user has the problem ``erased`` and shows nothing of what came."""
    events = None if tables.events is None else hide_erased_rows(tables.events, erased)
    impressions = None if tables.impressions is None else hide_erased_rows(tables.impressions, erased)
    return replace(tables, events=events, impressions=impressions)


def hide_erased_rows(raw: DataFrame, erased: ErasureList) -> DataFrame:
    """``hide_erased`` for the raw rows of one table."""
    if not erased.users:
        return raw
    is_theirs = F.coalesce(erased.holds(F.col(c.USER_ID)), F.lit(False))
    # In a row that could not be read, whose it is may stand anywhere.
    is_unreadable = F.col(PROBLEM).isNotNull() | F.col(c.USER_ID).isNull()
    names_them = F.exists(phrases(F.col(c.RAW), erased.phrase_sizes), erased.holds_phrase)
    is_erased = is_theirs | (is_unreadable & F.coalesce(names_them, F.lit(False)))
    hidden = {
        PROBLEM: F.when(is_erased, F.lit(ERASED)).otherwise(F.col(PROBLEM)),
        c.RAW: F.when(is_erased, F.lit("")).otherwise(F.col(c.RAW)),
    }
    return raw.withColumns(hidden)
