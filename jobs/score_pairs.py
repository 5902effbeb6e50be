"""Score candidate pairs by their vectors: recall candidates, impressions, and lists of your own.

Pairs without one of the vectors are counted and left out.

Reads published_models, recall_candidates and impressions (as configured, whichever exist), lists of pairs,
user_embeddings, item_embeddings, and items, item_tokens and item_vocabulary where items without a vector are scored by
text. Writes pair_scores, one slice per model_version.
"""

from precise_core.command import command, flag, task_flag
from precise_core.pair_scores.night import pair_sources, score_task
from precise_core.publication.night import published_checkpoint, published_tasks
from precise_core.run.job import Job
from precise_core.warehouse.spark_errors import worker_errors


@command(
    task_flag("vectors"),
    flag(
        "--pairs",
        "a Delta table or Parquet files with user_id and item_id, scored beside the configured lists; repeatable",
        action="append",
        default=[],
        metavar="FOLDER",
    ),
)
def main(job: Job) -> None:
    sources = pair_sources(job, job.arguments.pairs)
    tasks = published_tasks(job, job.arguments.task)
    with worker_errors():
        counts = [score_task(job, task, published_checkpoint(job, task), sources) for task in tasks]
    pairs_in, scored, without_vector = (sum(column) for column in zip(*counts, strict=True))
    job.balance("pairs", rows_in=pairs_in, rows_out=scored, rows_rejected=without_vector)


if __name__ == "__main__":
    raise SystemExit(main())
