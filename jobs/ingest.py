"""Read the source named in the configuration into validated tables.

Writes events, items, impressions, and each one's *_rejected table with a reason per row. Fails before it writes where
a file or column is missing or an expectation does not hold.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.features.cleaning import Cleaned, clean_events, clean_impressions, clean_items
from precise_core.features.erasures import hide_erased
from precise_core.features.tasks import check_tasks
from precise_core.runtime.job import Job, run_job
from precise_core.sources.read import describe_source, read_source, source_fingerprint
from precise_core.spark.erasure_list import ErasureList
from schemas import (
    EVENTS,
    EVENTS_REJECTED,
    IMPRESSIONS,
    IMPRESSIONS_REJECTED,
    ITEMS,
    ITEMS_REJECTED,
    Table,
)
from schemas import columns as c
from validation.gate import gate

# the table, its quarantine, the rows as they came, and what became of them
Part = tuple[Table, Table, DataFrame, Cleaned]


def ingest(job: Job) -> None:
    settings, now = job.settings, datetime.now(UTC)
    job.say(describe_source(settings.source))
    job.input_fingerprints["source"] = source_fingerprint(settings.source)
    raw = hide_erased(read_source(job.spark, settings.source), ErasureList.of(job.folder))

    # Each half of the rows is asked for several times: every source row is read and checked once.
    items = clean_items(raw.items)
    items.checked.persist()
    events = clean_events(raw.events, items.accepted, not_after=now)
    events.checked.persist()
    parts: list[Part] = [(ITEMS, ITEMS_REJECTED, raw.items, items), (EVENTS, EVENTS_REJECTED, raw.events, events)]
    if raw.impressions is None:
        job.say("impressions: the source has none; the ranking jobs will be skipped")
    else:
        impressions = clean_impressions(raw.impressions, items.accepted, not_after=now)
        impressions.checked.persist()
        parts.append((IMPRESSIONS, IMPRESSIONS_REJECTED, raw.impressions, impressions))

    check_tasks(events.accepted, settings.tasks)
    for table, _, _, cleaned in parts:
        until: dict[str, Any] = {} if table is ITEMS else {"latest": now}
        with job.watching(f"reading and checking {table.name}"):
            outcome = gate(table, cleaned.accepted, run_id=job.run_id, **until)
        job.check(outcome)
    totals = [0, 0, 0]
    for table, rejected_table, raw_rows, cleaned in parts:
        accepted_rows = job.write(table, cleaned.accepted)
        rejected_rows = job.write(rejected_table, _stamp(cleaned.rejected, job, now))
        counts = (raw_rows.count(), accepted_rows, rejected_rows)
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
    job.balance("raw rows", rows_in=totals[0], rows_out=totals[1], rows_rejected=totals[2])


def _stamp(rejected: DataFrame, job: Job, now: datetime) -> DataFrame:
    return rejected.withColumns({c.RUN_ID: F.lit(job.run_id), c.REJECTED_AT: F.lit(now)})


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--data", metavar="FOLDER", help="folder of the source's files; short for --set source.data=")


def main(argv: Sequence[str] | None = None) -> int:
    return run_job("ingest", __doc__, ingest, argv, add_flags)


if __name__ == "__main__":
    raise SystemExit(main())
