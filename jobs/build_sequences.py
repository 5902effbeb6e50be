"""Build the last N events of every user, over all scenes and per task (S_u and S'_u, Fig. 3).

The stored sequences are brought forward by what has changed in events since they were written, and are the same rows as
a build from all events gives.

Reads events, item_vocabulary, and user_sequences of the previous night. Writes user_sequences.
"""

from contextlib import nullcontext
from typing import Any

from precise_core.command import command, flag, switch
from precise_core.run.job import Job
from precise_core.sequences.increment import SequenceUpdate
from precise_core.sequences.night import check_sequences, prepare_sequences
from schemas import USER_SEQUENCES
from validation.gate import gate


@command(
    switch("--full", "build everything from all events"),
    flag(
        "--check",
        "build so many buckets (1) from all events and stop where they differ",
        type=int,
        nargs="?",
        const=1,
        default=0,
        metavar="BUCKETS",
    ),
)
def main(job: Job) -> None:
    settings, arguments = job.settings, job.arguments
    with job.watching("finding what has changed, or building everything"):
        update = prepare_sequences(job, full=arguments.full)
    with update.discarded_unless_written() if update else nullcontext():
        if arguments.check:
            with job.watching("comparing with a full build"):
                check_sequences(job, update, arguments.check)
        if update is None:
            job.keep(USER_SEQUENCES)
            job.balance("events of the sequences touched", rows_in=0, rows_out=0)
            return
        limits: dict[str, Any] = {"max_length": settings.sequences.max_length, "tasks": settings.task_names}
        with job.watching("building and checking user_sequences"):
            outcome = gate(USER_SEQUENCES, update.rows, run_id=job.run_id, as_of=settings.as_of, **limits)
        job.check(outcome)
        write_sequences(job, update)


def write_sequences(job: Job, update: SequenceUpdate) -> None:
    """One commit with the rows and the note of their inputs; then the row balance of the events."""
    note = update.state.model_dump(mode="json")
    if update.written:
        job.write_files(update.written.files, note=note)
    elif update.partitions is None:
        job.write(USER_SEQUENCES, update.content, note=note)
    else:
        job.replace_partitions(USER_SEQUENCES, update.content, update.partitions, note)
    job.balance(update.unit, **update.count_events(job.read_written(USER_SEQUENCES), job.settings.sequences))


if __name__ == "__main__":
    raise SystemExit(main())
