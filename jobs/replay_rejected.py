"""Judge rejected rows again, after a fix: of the catalog, of the configuration, or because their time has come.

Rows that pass now move into their table and leave the quarantine; the others stay, with the reason of today.

Reads and writes items_rejected, events_rejected, impressions_rejected, and items, events, impressions (rows added by
key). Reads source_files for the order of files.
"""

from datetime import UTC, datetime
from typing import Any

from precise_core.command import command
from precise_core.errors import ConfigError
from precise_core.intake.night import REJECTED, gather_quarantine, move
from precise_core.intake.replay import judge_again
from precise_core.run.job import Job
from precise_core.sources.config import FilesSource
from precise_core.sources.files import inputs_of
from schemas import EVENTS, IMPRESSIONS, ITEMS
from validation.gate import gate


@command()
def main(job: Job) -> None:
    source, now = job.settings.source, datetime.now(UTC)
    if not isinstance(source, FilesSource):
        raise ConfigError(f"source.kind {source.kind} is read whole every night: run jobs/ingest.py instead")
    totals = [0, 0, 0]
    for table in (ITEMS, EVENTS, IMPRESSIONS):
        spec = inputs_of(source).get(table.name)
        if spec is None or not job.warehouse.exists(REJECTED[table.name]):
            continue
        quarantine = gather_quarantine(job, table, spec, now)
        cleaned = judge_again(quarantine)
        until: dict[str, Any] = {} if table is ITEMS else {"latest": now}
        job.check(gate(table, cleaned.accepted, run_id=job.run_id, **until))
        totals = [total + rows for total, rows in zip(totals, move(job, quarantine, cleaned), strict=True)]
    job.balance("rejected rows", rows_in=totals[0], rows_out=totals[1], rows_rejected=totals[2])


if __name__ == "__main__":
    raise SystemExit(main())
