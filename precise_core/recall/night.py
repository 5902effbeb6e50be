"""Recall in a night: the inputs of a task's candidates, and the counts of its users."""

from __future__ import annotations

from typing import NamedTuple

from pyspark.sql import functions as F

from precise_core.publication.night import published_checkpoint, published_index, published_vectors
from precise_core.recall.spark import Recalled, RecallInputs
from precise_core.run.job import Job
from schemas import EVENTS, IMPRESSIONS, ITEM_VOCABULARY, ITEMS, RECALL_CANDIDATES, USER_EMBEDDINGS, USER_SEQUENCES
from schemas import columns as c


class UserCounts(NamedTuple):
    """Users of one task: all, those with candidates, and those without."""

    users: int
    served: int
    empty: int


def gather(job: Job, task: str) -> RecallInputs:
    """The published checkpoint, index and vectors of a task, and the tables of its users and items."""
    return RecallInputs(
        task=task,
        model_version=published_checkpoint(job, task).model_version,
        as_of=job.settings.as_of,
        index_folder=published_index(job, task),  # a damaged index is found before Spark has anything to do
        sequences=job.read(USER_SEQUENCES),
        user_vectors=published_vectors(job, task, USER_EMBEDDINGS),
        impressions=job.read_optional(IMPRESSIONS),
        events=job.read(EVENTS),
        items=job.read(ITEMS),
        vocabulary=job.read(ITEM_VOCABULARY),
    )


def count_users(job: Job, inputs: RecallInputs, recalled: Recalled) -> UserCounts:
    """Count in the written table who has candidates; log how many items were left out and who is on the fallback."""
    task, is_written = inputs.task, F.col(c.MODEL_VERSION) == inputs.model_version
    written = job.read_written(RECALL_CANDIDATES).where(is_written)
    served = written.where(F.col(c.RANK) == 1).select(c.USER_ID).distinct()
    empty = recalled.users.join(served, on=c.USER_ID, how="left_anti")
    counts = UserCounts(recalled.users.count(), served.count(), empty.count())
    job.say(f"{task}: {recalled.excluded_items:,} items are deleted or belong to other scenes only and were left out")
    if job.settings.recall.popular:
        number = recalled.without_vector.count()
        job.say(f"{task}: {number:,} users without a vector get what is popular")
        job.metrics[f"users_on_fallback/{task}"] = float(number)
    for frame in recalled.cached:
        frame.unpersist()
    return counts
