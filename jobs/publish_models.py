"""Make the newest checkpoints the published ones, where their vectors and indexes are complete: one commit for all.

A model whose vectors are far from the published ones is refused (gates.drift), and with it the whole publication.
Until then everything behind the encoders (recall, scores, ranking, evaluation) reads the old complete version.

Reads items, item_vocabulary, item_tokens, token_embeddings, user_sequences, item_embeddings, user_embeddings,
checkpoints and indexes. Reads and writes published_models.
"""

from precise_core.command import command, switch, task_flag
from precise_core.publication.night import complete_candidates, drift_facts, publish
from precise_core.run.job import Job
from validation.publication import FAIL, WARN, gate_drift


@command(switch("--accept-drift", "publish what is beyond a limit of gates.drift"), task_flag("model"))
def main(job: Job) -> None:
    named = job.arguments.task
    candidates = complete_candidates(job, named)
    limits, level = job.settings.gates.drift, WARN if job.arguments.accept_drift else FAIL
    for task, candidate in candidates.items():
        facts = drift_facts(job, task, candidate.checkpoint)
        job.check(gate_drift(job.spark, facts, run_id=job.run_id, task=task, limits=limits, level=level))
    publish(job, candidates, only_these=bool(named))
    job.balance("models", rows_in=len(candidates), rows_out=len(candidates))


if __name__ == "__main__":
    raise SystemExit(main())
