"""Build the last N events of every user, over all scenes and per task (S_u and S'_u, Fig. 3).

Reads events and item_vocabulary. Writes user_sequences.
"""

from collections.abc import Sequence
from typing import Any

from precise_core.features.sequences import build_user_sequences, sequence_balance
from precise_core.runtime.job import Job, run_job
from schemas import EVENTS, ITEM_VOCABULARY, USER_SEQUENCES
from validation.gate import gate


def build(job: Job) -> None:
    settings = job.settings
    events, vocabulary = job.read(EVENTS), job.read(ITEM_VOCABULARY)
    sequences = build_user_sequences(events, vocabulary, settings.tasks, settings.as_of, settings.sequences).persist()
    limits: dict[str, Any] = {"max_length": settings.sequences.max_length, "tasks": settings.task_names}
    with job.watching("building and checking user_sequences"):
        outcome = gate(USER_SEQUENCES, sequences, run_id=job.run_id, **limits)
    job.check(outcome)
    job.write(USER_SEQUENCES, sequences)

    written = job.read_written(USER_SEQUENCES)
    balance = sequence_balance(events, written, settings.tasks, settings.as_of, settings.sequences)
    job.balance("events of all tasks", rows_in=balance.events, rows_out=balance.kept, rows_rejected=balance.trimmed)


def main(argv: Sequence[str] | None = None) -> int:
    return run_job("build_sequences", __doc__, build, argv)


if __name__ == "__main__":
    raise SystemExit(main())
