"""Score candidate pairs with the dot product of their vectors.

Reads recall_candidates and impressions (whichever exist), user_embeddings, item_embeddings. Writes pair_scores, one
slice per model_version. Pairs without one of the vectors are counted and left out.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from functools import reduce

from pyspark.sql import DataFrame

from precise_core.errors import MissingTableError
from precise_core.inference.scores import score_pairs
from precise_core.runtime.job import Job, run_job
from precise_core.runtime.published import published_checkpoint, published_tasks
from schemas import IMPRESSIONS, ITEM_EMBEDDINGS, PAIR_SCORES, RECALL_CANDIDATES, USER_EMBEDDINGS
from schemas import columns as c


def score(job: Job) -> None:
    users, items = job.read(USER_EMBEDDINGS), job.read(ITEM_EMBEDDINGS)
    sources = [frame for frame in (job.read_optional(RECALL_CANDIDATES), job.read_optional(IMPRESSIONS)) if frame]
    if not sources:
        raise MissingTableError("no candidate pairs: neither recall_candidates nor impressions is in the warehouse")
    pairs_in, scored, without_vector = 0, 0, 0
    for task in published_tasks(job, job.arguments.task):
        version = published_checkpoint(job, task).model_version
        pairs = _pairs(sources, version).persist()
        pairs_in += pairs.count()
        without_vector += _without_vector(pairs, users, items, version, task)
        scored += job.write(
            PAIR_SCORES, score_pairs(pairs, users, items, version, task), replace={c.MODEL_VERSION: version}
        )
        pairs.unpersist()
    job.balance("pairs", rows_in=pairs_in, rows_out=scored, rows_rejected=without_vector)


def _without_vector(pairs: DataFrame, users: DataFrame, items: DataFrame, version: str, task: str) -> int:
    """Pairs whose user or item has no vector, counted apart from the scoring so that a lost pair shows."""
    with_user = users.where((users[c.MODEL_VERSION] == version) & (users[c.TASK] == task)).select(c.USER_ID)
    with_item = items.where(items[c.MODEL_VERSION] == version).select(c.ITEM_ID)
    no_user = pairs.join(with_user, on=c.USER_ID, how="left_anti").count()
    user_only = pairs.join(with_user, on=c.USER_ID, how="left_semi").join(with_item, on=c.ITEM_ID, how="left_anti")
    return no_user + user_only.count()


def _pairs(sources: list[DataFrame], version: str) -> DataFrame:
    """Distinct pairs: this checkpoint's recall candidates and every impression."""
    own = [
        frame.where(frame[c.MODEL_VERSION] == version) if c.MODEL_VERSION in frame.columns else frame
        for frame in sources
    ]
    return reduce(DataFrame.unionByName, [frame.select(c.USER_ID, c.ITEM_ID) for frame in own]).distinct()


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--task", action="append", help="only this task's vectors; repeatable; all by default")


def main(argv: Sequence[str] | None = None) -> int:
    return run_job("score_pairs", __doc__, score, argv, add_flags)


if __name__ == "__main__":
    raise SystemExit(main())
