"""Recall candidates for every user: U2I by the user's vector, U2I2I by what follows recent items (VI-B, Fig. 6).

A deleted item is never recalled; a user without a history of the task gets its most popular items.

Reads published_models, user_embeddings, user_sequences, events, items, item_vocabulary, impressions (whose users are
known too) and the published indexes. Writes recall_candidates, one slice per model_version.
"""

from precise_core.command import command, flag
from precise_core.publication.night import published_tasks
from precise_core.recall.night import UserCounts, count_users, gather
from precise_core.recall.spark import recall_task
from precise_core.run.job import Job
from precise_core.warehouse.spark_errors import worker_errors
from schemas import RECALL_CANDIDATES
from schemas import columns as c


@command(flag("--task", "only this task; repeatable; all by default", action="append"))
def main(job: Job) -> None:
    tasks = published_tasks(job, job.arguments.task)
    with worker_errors():
        counts = [_recall(job, task) for task in tasks]
    users, served, empty = (sum(column) for column in zip(*counts, strict=True))
    job.balance("users with candidates", rows_in=users, rows_out=served, rows_rejected=empty)


def _recall(job: Job, task: str) -> UserCounts:
    settings, inputs = job.settings, gather(job, task)
    recalled = recall_task(job.spark, inputs, settings.recall, settings.tasks, settings.sequences.max_length)
    job.write(RECALL_CANDIDATES, recalled.rows, replace={c.MODEL_VERSION: inputs.model_version})
    return count_users(job, inputs, recalled)


if __name__ == "__main__":
    raise SystemExit(main())
