"""Read the source named in the configuration into validated tables.

Writes events, items, impressions, and each one's *_rejected table with a reason per row. Own files are taken once:
only new ones are read, and their rows added. Fails before it writes where a file or column is missing, a file or its
columns have changed, or an expectation does not hold.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from precise_core.intake.night import Ingestion
from precise_core.intake.stock import Policy
from precise_core.run.job import Job, run_job
from precise_core.sources.read import describe_source, has_impressions, source_fingerprint
from schemas import EVENTS, IMPRESSIONS, ITEMS
from validation.gate import gate


def ingest(job: Job) -> None:
    settings, flags, now = job.settings, job.arguments, datetime.now(UTC)
    job.say(describe_source(settings.source))
    ingestion = Ingestion(job, now, _policy(flags))
    job.input_fingerprints["source"] = source_fingerprint(settings.source, ingestion.known)
    parts = ingestion.read()
    if not has_impressions(settings.source):
        job.say("impressions: the source has none; the ranking jobs will be skipped")
    for part in parts:
        until: dict[str, Any] = {} if part.table is ITEMS else {"latest": now}
        with job.watching(f"checking {part.table.name}"):
            outcome = gate(part.table, part.cleaned.accepted, run_id=job.run_id, **until)
        job.check(outcome)
    counts = ingestion.store(parts)
    ingestion.remember(parts)
    for table in (EVENTS, ITEMS, IMPRESSIONS):
        if table.name not in job.output_versions and job.warehouse.exists(table):
            job.keep(table)
    rows_in, rows_out, rejected = (sum(column) for column in zip((0, 0, 0), *counts, strict=True))
    job.balance("raw rows", rows_in=rows_in, rows_out=rows_out, rows_rejected=rejected)


def _policy(flags: Namespace) -> Policy:
    return Policy(full=flags.full, evolve=flags.evolve, reread=flags.reread, reassign=flags.reassign)


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--data", metavar="FOLDER", help="folder of the source's files; short for --set source.data=")
    parser.add_argument("--full", action="store_true", help="read every file again; the tables become what they say")
    parser.add_argument("--evolve", action="store_true", help="accept a named column that is of another kind now")
    parser.add_argument("--reread", action="store_true", help="read files again that changed after they were taken")
    parser.add_argument("--reassign", action="store_true", help="accept corrections that give a row to another user")


def main(argv: Sequence[str] | None = None) -> int:
    return run_job("ingest", __doc__, ingest, argv, add_flags)


if __name__ == "__main__":
    raise SystemExit(main())
