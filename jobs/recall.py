"""Recall candidates for every user: U2I by the user's vector, U2I2I by neighbours of recent items (VI-B, Fig. 6).

Reads user_embeddings, user_sequences, events, items, item_vocabulary and the indexes. Writes recall_candidates, one
slice per model_version. A deleted item is never recalled.
"""

from argparse import ArgumentParser
from collections.abc import Sequence

import numpy as np
from pyspark.sql import functions as F

from precise_core.features.eligibility import excluded_items
from precise_core.inference.scores import one_version
from precise_core.retrieval.spark import recall_candidates
from precise_core.runtime.job import Job, run_job
from precise_core.runtime.published import published_checkpoint, published_tasks
from schemas import EVENTS, ITEM_VOCABULARY, ITEMS, RECALL_CANDIDATES, USER_EMBEDDINGS, USER_SEQUENCES
from schemas import columns as c


def recall(job: Job) -> None:
    settings = job.settings
    vectors, sequences = job.read(USER_EMBEDDINGS), job.read(USER_SEQUENCES)
    catalog = (job.read(EVENTS), job.read(ITEMS), job.read(ITEM_VOCABULARY))
    rows_in, rows_out, without_history = 0, 0, 0
    for task in published_tasks(job, job.arguments.task):
        version = published_checkpoint(job, task).model_version
        users = one_version(vectors, version, "user_embeddings").where(F.col(c.TASK) == task)
        excluded = (
            excluded_items(*catalog, settings.tasks, settings.as_of, task).toPandas()[c.ITEM_INDEX].to_numpy(np.int64)
        )
        candidates = recall_candidates(
            job.spark, users, sequences, job.folder / "indexes" / version, version, excluded, settings.recall
        )
        job.write(RECALL_CANDIDATES, candidates, replace={c.MODEL_VERSION: version})
        written = job.read_written(RECALL_CANDIDATES).where(F.col(c.MODEL_VERSION) == version)
        rows_in += users.count()
        of_task = sequences.where(F.col(c.TASK) == task).select(c.USER_ID)
        without_history += users.join(of_task, on=c.USER_ID, how="left_anti").count()
        rows_out += written.where(F.col(c.RANK) == 1).select(c.USER_ID).distinct().count()
        job.say(f"{task}: {len(excluded):,} items are deleted or belong to other scenes only and were left out")
    job.balance("users with candidates", rows_in=rows_in, rows_out=rows_out, rows_rejected=without_history)


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--task", action="append", help="only this task; repeatable; all by default")


def main(argv: Sequence[str] | None = None) -> int:
    return run_job("recall", __doc__, recall, argv, add_flags)


if __name__ == "__main__":
    raise SystemExit(main())
