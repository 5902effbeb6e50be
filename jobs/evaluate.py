"""Measure the night: full ranking, recall and the lists against the test period, ranking against the impressions.

Each model is measured beside the simple references, and the published lists against the best of them. Before a model is
published that is of the lists alone.

Reads events, items, item_vocabulary, item_tokens, user_sequences, text_states where a checkpoint is contextual,
training_windows, published_models, user_embeddings, item_embeddings, recall_candidates, recommendations, impressions,
ranking_features, ranking_scores and checkpoints. Writes evaluation_metrics.
"""

from precise_core.command import command
from precise_core.errors import NothingToEvaluateError
from precise_core.evaluation.night import (
    offline_evaluation,
    ranking_rows,
    recall_rows,
    recommendations_rows,
    retrieval_rows,
)
from precise_core.publication.night import published_tasks
from precise_core.run.job import Job
from schemas import EVALUATION_METRICS, PUBLISHED_MODELS, RANKING_SCORES, RECALL_CANDIDATES


@command()
def main(job: Job) -> None:
    is_published, recalled = job.warehouse.exists(PUBLISHED_MODELS), job.warehouse.exists(RECALL_CANDIDATES)
    if not is_published:
        job.say("no model is published: PRECISE's systems are left out")
    published = published_tasks(job) if is_published else []
    evaluation, rows, done, left_out = offline_evaluation(job, job.settings.task_names), [], 0, 0
    for task in job.settings.task_names:
        try:
            retrieved, bar = retrieval_rows(job, evaluation, task)
            rows += retrieved + recommendations_rows(job, evaluation, task, bar)
            if recalled and task in published:
                rows += recall_rows(job, evaluation, task)
            done += 1
        except NothingToEvaluateError as error:
            job.say(f"{task}: not evaluated, {error}")
            left_out += 1
        else:
            job.say(f"{task}: evaluated")
    if job.warehouse.exists(RANKING_SCORES):
        try:
            rows += ranking_rows(job)
        except NothingToEvaluateError as error:
            job.say(f"ranking: not evaluated, {error}")
    job.write_records(EVALUATION_METRICS, rows)
    job.balance("tasks", rows_in=done + left_out, rows_out=done, rows_rejected=left_out)


if __name__ == "__main__":
    raise SystemExit(main())
