"""Score candidate pairs by their vectors: recall candidates, impressions, and lists of your own.

Pairs without one of the vectors are counted and left out.

Reads published_models, recall_candidates and impressions (as configured, whichever exist), lists of pairs,
user_embeddings, item_embeddings, and items, item_tokens and item_vocabulary where items without a vector are scored by
text. Writes pair_scores, one slice per model_version.
"""

from pyspark.sql import functions as F

from precise_core.command import command, flag, task_flag
from precise_core.pair_scores.night import gather, log_missing_vectors, pair_sources
from precise_core.pair_scores.scores import choose_plan, count_missing_vectors, score_pairs
from precise_core.publication.night import published_tasks
from precise_core.run.job import Job
from precise_core.warehouse.spark_errors import worker_errors
from schemas import PAIR_SCORES
from schemas import columns as c


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
    config, pairs, scored, without_vector = job.settings.scoring, 0, 0, 0
    with worker_errors():
        for inputs in (gather(job, task, sources) for task in tasks):
            if inputs is None:
                continue
            plan = choose_plan(config, inputs.items.count(), inputs.width, job.spark.sparkContext.defaultParallelism)
            job.say(f"{inputs.task}: {plan}")
            missing = count_missing_vectors(inputs)
            scores = score_pairs(job.spark, inputs.pairs, inputs.users, inputs.items, plan, config.similarity)
            rows = scores.withColumn(c.MODEL_VERSION, F.lit(inputs.model_version))
            scored += job.write(PAIR_SCORES, rows, replace={c.MODEL_VERSION: inputs.model_version})
            log_missing_vectors(job, inputs, missing)
            pairs, without_vector = pairs + inputs.number, without_vector + sum(missing.values())
            inputs.pairs.unpersist()
    job.balance("pairs", rows_in=pairs, rows_out=scored, rows_rejected=without_vector)


if __name__ == "__main__":
    raise SystemExit(main())
