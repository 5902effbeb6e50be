"""Score candidate pairs by their vectors: recall candidates, impressions, and lists of your own.

Reads recall_candidates and impressions (as configured, whichever exist), lists of pairs, user_embeddings,
item_embeddings, and items where items without a vector are scored by text. Writes pair_scores, one slice per
model_version. Pairs without one of the vectors are counted and left out.
"""

from argparse import ArgumentParser
from collections.abc import Sequence

from precise_core.pair_scores.night import pair_sources, score_task
from precise_core.publication.published import published_checkpoint, published_tasks
from precise_core.run.job import Job, run_job
from precise_core.warehouse.spark_errors import raised_as_ours


def score(job: Job) -> None:
    sources = pair_sources(job, job.arguments.pairs)
    tasks = published_tasks(job, job.arguments.task)
    with raised_as_ours():
        counts = [score_task(job, task, published_checkpoint(job, task), sources) for task in tasks]
    pairs_in, scored, without_vector = (sum(column) for column in zip(*counts, strict=True))
    job.balance("pairs", rows_in=pairs_in, rows_out=scored, rows_rejected=without_vector)


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--task", action="append", help="only this task's vectors; repeatable; all by default")
    parser.add_argument(
        "--pairs",
        action="append",
        default=[],
        metavar="FOLDER",
        help="a Delta table or Parquet files with user_id and item_id, scored beside the configured lists; repeatable",
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run_job("score_pairs", __doc__, score, argv, add_flags)


if __name__ == "__main__":
    raise SystemExit(main())
