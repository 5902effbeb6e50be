"""Care for the tables: merge small files, remove old files and log entries, and artefacts that nothing refers to.

No row changes, and no job that is up to date runs again for it. Refuses to remove what a reader at work may still need.
Run it after the night; --dry-run only says what it would do.

Reads and writes every table, and removes folders under <warehouse>/checkpoints, indexes, rankers and catalogs.
"""

from precise_core.command import command, flag, switch
from precise_core.operations.maintenance import care_for, remove_old_artefacts, require_safe_retention
from precise_core.run.job import Job
from schemas import RUNS, TABLES


@command(
    switch("--dry-run", "say what would be done, and do nothing"),
    flag("--retention-hours", "in place of tables.retention_hours of the configuration", type=int, metavar="N"),
)
def main(job: Job) -> None:
    dry_run, given = job.arguments.dry_run, job.arguments.retention_hours
    hours = job.settings.tables.retention_hours if given is None else given
    require_safe_retention(job, hours)
    tables = [table for table in TABLES if job.warehouse.exists(table)]
    with_work = sum(care_for(job, table, hours, dry_run) for table in tables)
    if RUNS in tables:
        remove_old_artefacts(job, dry_run)
    job.balance(
        "tables (the second figure has nothing to do)",
        rows_in=len(tables),
        rows_out=with_work,
        rows_rejected=len(tables) - with_work,
    )


if __name__ == "__main__":
    raise SystemExit(main())
