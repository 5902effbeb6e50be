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
from precise_core.runtime.checkpoints import latest_checkpoint, trained_tasks
from precise_core.runtime.job import Job, run_job
from schemas import IMPRESSIONS, ITEM_EMBEDDINGS, PAIR_SCORES, RECALL_CANDIDATES, USER_EMBEDDINGS
from schemas import columns as c


def score(job: Job) -> None:
    users, items = job.read(USER_EMBEDDINGS), job.read(ITEM_EMBEDDINGS)
    sources = [frame for frame in (job.read_optional(RECALL_CANDIDATES), job.read_optional(IMPRESSIONS)) if frame]
    if not sources:
        raise MissingTableError("no candidate pairs: neither recall_candidates nor impressions is in the warehouse")
    pairs_in, scored = 0, 0
    for task in trained_tasks(job, job.arguments.task):
        version = latest_checkpoint(job, task).model_version
        pairs = _pairs(sources, version).persist()
        pairs_in += pairs.count()
        scored += job.write(
            PAIR_SCORES, score_pairs(pairs, users, items, version, task), replace={c.MODEL_VERSION: version}
        )
        pairs.unpersist()
    job.balance("pairs", rows_in=pairs_in, rows_out=scored, rows_rejected=pairs_in - scored)


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
