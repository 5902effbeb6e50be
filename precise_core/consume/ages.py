"""How old each table is, and whether the job that writes it succeeded."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from precise_core.warehouse.reader import TableReader
from schemas import RUNS, TABLES

_COLUMNS = ["job", "status", "started_at", "seconds", "configuration"]


def freshness(warehouse: str | Path, now: datetime | None = None) -> pd.DataFrame:
    """One row per table of the warehouse, in the order of the data flow.

    Columns: ``table``; ``version`` of the Delta table; ``rows``; ``job`` that writes it; ``last_status`` of that job's
    last run; ``as_of`` and ``finished_at`` of its last run that succeeded; ``age`` from that as_of to ``now``, this
    moment by default. What a table says of the world ends at `as_of`; `finished_at` is when it was written.
    """
    tables = TableReader(warehouse)
    runs = tables.read(RUNS, _COLUMNS).to_pandas().sort_values("started_at")
    runs["as_of"] = pd.to_datetime([json.loads(text)["as_of"] for text in runs["configuration"]], utc=True)
    runs["finished_at"] = runs["started_at"] + pd.to_timedelta(runs["seconds"], unit="s")
    last = runs.groupby("job")["status"].last()
    succeeded = runs[runs["status"] == "succeeded"].groupby("job")[["as_of", "finished_at"]].last()
    there = [table for table in TABLES if tables.exists(table)]
    found = pd.DataFrame(
        [(table.name, tables.version(table), tables.rows(table), table.written_by) for table in there],
        columns=["table", "version", "rows", "job"],
    )
    found["last_status"] = found["job"].map(last)
    found = found.join(succeeded, on="job")
    found["age"] = pd.to_datetime(now or datetime.now(UTC)) - pd.to_datetime(found["as_of"])
    return found
