"""Make the newest checkpoints the published ones, where their vectors and indexes are complete: one commit for all.

A model whose vectors are far from the published ones is refused (gates.drift), and with it the whole publication.
Until then everything behind the encoders (recall, scores, ranking, evaluation) reads the old complete version. Reads
items, item_vocabulary, item_tokens, user_sequences, both tables of vectors, checkpoints and indexes. Writes
published_models.
"""

from argparse import ArgumentParser
from collections.abc import Sequence

from precise_core.publication.drift_night import drift_facts
from precise_core.publication.night import complete_candidates, publish
from precise_core.run.job import Job, run_job
from validation.drift import FAIL, WARN, gate_drift


def publish_models(job: Job) -> None:
    named = job.arguments.task
    candidates = complete_candidates(job, named)
    limits, level = job.settings.gates.drift, WARN if job.arguments.accept_drift else FAIL
    for task, candidate in candidates.items():
        facts = drift_facts(job, task, candidate.checkpoint)
        job.check(gate_drift(job.spark, facts, run_id=job.run_id, task=task, limits=limits, level=level))
    publish(job, candidates, only_these=bool(named))
    job.balance("models", rows_in=len(candidates), rows_out=len(candidates))


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--accept-drift", action="store_true", help="publish what is beyond a limit of gates.drift")
    parser.add_argument("--task", action="append", help="only this task's model; repeatable; all by default")


def main(argv: Sequence[str] | None = None) -> int:
    return run_job("publish_models", __doc__, publish_models, argv, add_flags)


if __name__ == "__main__":
    raise SystemExit(main())
