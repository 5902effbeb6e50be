"""Take users out of the warehouse: every table, and with --purge-history every older version; with proof.

Reads and writes every table with users. Writes <warehouse>/erasures/list.json: who was erased as a salted hash, so
that ingest rejects their rows (reason `erased`) if they come again; and <warehouse>/erasures/<run_id>.json: a report of
every table, every file that was read, and every model that was trained with them.
"""

from precise_core.command import command, flag, switch
from precise_core.errors import DataError
from precise_core.operations.erasure import (
    erase_from_tables,
    look_for_traces,
    purge_history,
    remove_report,
    remove_served,
    remove_stacks,
    requested_users,
    require_no_versions,
    trained_with,
    write_report,
)
from precise_core.operations.maintenance import require_no_reader
from precise_core.publication.night import publication_follows
from precise_core.run.job import Job
from precise_core.warehouse.erasure_list import ErasureList


@command(
    flag("--user-id", "whom to erase; repeatable", action="append", metavar="ID"),
    flag("--ids", "a file with one user id a line", metavar="FILE"),
    switch(
        "--purge-history", "remove older versions now, whatever tables.min_retention_hours says; never under a reader"
    ),
)
def main(job: Job) -> None:
    user_ids, purge = requested_users(job.arguments), job.arguments.purge_history
    if purge:
        require_no_reader(job, 0)
    require_no_versions(job, is_purged=purge)
    trained = trained_with(job, user_ids)  # found out while the rows are there
    erased = ErasureList.of(job.root)
    erased.add(user_ids)  # before the rows are removed: from here on they cannot come back
    with publication_follows(job):
        done = erase_from_tables(job, user_ids)
    remove_report(job)
    remove_served(job)
    remove_stacks(job)
    if purge:
        with publication_follows(job):
            purge_history(job)
    traces = look_for_traces(job, user_ids, done)
    report = write_report(job, erased, user_ids, done, traces, trained, is_purged=purge)
    for model, answer in trained.items():
        job.say(f"{model}: trained with them: {answer}")
    job.say("indexes: hold items only")
    job.say(f"report: {report}")
    before, after = (sum(getattr(rows, name) for rows in done.values()) for name in ("rows_before", "rows_after"))
    job.balance("rows of tables with users", rows_in=before, rows_out=after, rows_rejected=before - after)
    if left := sum(found.left for found in traces.values()):
        if purge:
            raise DataError(f"{left} values still name them, see {report}; run jobs/erase_user.py again")
        job.say(
            f"{left} values in older versions still name them; they go with jobs/maintain_tables.py, files after "
            "tables.retention_hours, log entries after tables.log_retention_days, or now with --purge-history"
        )


if __name__ == "__main__":
    raise SystemExit(main())
