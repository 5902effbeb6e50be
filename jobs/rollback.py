"""Go back to the state after a run: tables, vocabulary, checkpoints in use, ranking models and indexes together.

First everything that state consists of is looked at: the files of every table's version, the SHA-256 of every
checkpoint and index. Where one is missing nothing is touched. A rollback that is killed is finished by the same
command; until then no other job works on the warehouse.

Reads runs. Writes one RESTORE commit per table that differs (runs and validation_results are history and stay), and
what is in use.
"""

from argparse import Namespace

from jobs import build_index
from precise_core.command import command, flag, switch
from precise_core.operations.rollback import (
    begin,
    end,
    interrupted,
    removed_indexes,
    restore_pointers,
    restore_tables,
    state_after,
    verify,
    whole_state,
)
from precise_core.run.job import Job


@command(
    flag("--to-run", "a run_id of the table runs", required=True, metavar="RUN_ID"),
    switch("--dry-run", "only look whether all of that state is still there"),
)
def main(job: Job) -> None:
    begun = interrupted(job)
    state = begun or state_after(job, job.arguments.to_run)
    for line in verify(job, state):
        job.say(line)
    if job.arguments.dry_run:
        job.say("dry run: all of it is there, nothing was changed")
        job.balance("tables", rows_in=len(state.tables), rows_out=len(state.tables))
        return
    if begun is None:
        begin(job, state)
    restore_pointers(job, state)
    changed = restore_tables(job, state)
    if removed := removed_indexes(job, state):
        job.say(f"indexes removed since, for {', '.join(removed)}: built again from the restored vectors")
        build_index.main.body(Job("build_index", job.settings, Namespace(task=removed)))
    end(job)
    whole_state(job)
    job.balance("tables (the rest is unchanged)", rows_in=len(job.output_versions), rows_out=len(changed),
                rows_rejected=len(job.output_versions) - len(changed))  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
