"""Read the source named in the configuration into validated tables.

Every raw row is accepted, or rejected with the first rule it broke and kept as JSON; none is dropped. Own files are
taken once: only new ones are read, and their rows added. Fails before it writes where a file or column is missing, a
file or its columns have changed, or an expectation does not hold. The first time it chooses the sizes that the
configuration leaves out, by the events before as_of; they are kept in <warehouse>/sizes.json.

Reads the files of the source, and source_files, events, items and impressions of earlier nights. Writes events, items,
impressions (where the source has them), events_rejected, items_rejected, impressions_rejected and source_files.
"""

from datetime import UTC, datetime
from typing import Any

from precise_core.command import DATA, command, switch
from precise_core.intake.night import gather, judged_parts, settle_sizes, store
from precise_core.intake.read import describe_source, has_impressions, input_bytes
from precise_core.intake.stock import Policy
from precise_core.run.job import Job
from schemas import EVENTS, IMPRESSIONS, ITEMS
from validation.gate import gate


@command(
    DATA,
    switch("--full", "read every file again; the tables become what they say"),
    switch("--evolve", "accept a named column that is of another kind now"),
    switch("--reread", "read files again that changed after they were taken"),
    switch("--reassign", "accept corrections that give a row to another user"),
)
def main(job: Job) -> None:
    source, flags, now = job.settings.source, job.arguments, datetime.now(UTC)
    job.say(describe_source(source))
    job.input_bytes = input_bytes(source)
    policy = Policy(full=flags.full, evolve=flags.evolve, reread=flags.reread, reassign=flags.reassign)
    if not has_impressions(source):
        job.say("impressions: the source has none; the ranking jobs will be skipped")
    inputs = gather(job, now, policy)
    parts = judged_parts(job, inputs)
    for part in parts:
        until: dict[str, Any] = {} if part.table is ITEMS else {"latest": now}
        with job.watching(f"checking {part.table.name}"):
            outcome = gate(part.table, part.cleaned.accepted, run_id=job.run_id, **until)
        job.check(outcome)
    rows_in, rows_out, rejected = store(job, inputs, parts)
    for table in (EVENTS, ITEMS, IMPRESSIONS):
        if table.name not in job.output_versions and job.warehouse.exists(table):
            job.keep(table)
    settle_sizes(job, now)
    job.balance("raw rows", rows_in=rows_in, rows_out=rows_out, rows_rejected=rejected)


if __name__ == "__main__":
    raise SystemExit(main())
