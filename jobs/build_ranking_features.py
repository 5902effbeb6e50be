"""Join every impression with what may be known at its instant, PRECISE vectors included (section VI-C, Fig. 7).

Reads impressions, events, items, item_embeddings, user_embeddings. Writes ranking_features, one slice per
model_version; a vector younger than the impression is never joined.
"""

from collections.abc import Sequence

from pyspark.sql import functions as F

from precise_core.features.ranking import build_ranking_features
from precise_core.runtime.job import Job, run_job
from precise_core.runtime.published import published_checkpoint
from precise_core.runtime.rankers import ranking_tasks
from schemas import EVENTS, IMPRESSIONS, ITEM_EMBEDDINGS, ITEMS, RANKING_FEATURES, USER_EMBEDDINGS
from schemas import columns as c


def build(job: Job) -> None:
    settings = job.settings
    shown = job.read(IMPRESSIONS)
    # Before `as_of` no vector of this checkpoint existed; a ranker that learned there would meet vectors for the first
    # time in the test split.
    since = shown.where(F.col(c.IMPRESSION_TS) >= F.lit(settings.as_of))
    tables = [since, *(job.read(table) for table in (EVENTS, ITEMS, ITEM_EMBEDDINGS, USER_EMBEDDINGS))]
    total, impressions, written = shown.count(), since.count(), 0
    tasks = ranking_tasks(job)
    for task in tasks:
        version = published_checkpoint(job, task).model_version
        features = build_ranking_features(
            *tables, task=task, model_version=version, as_of=settings.as_of, config=settings.ranking_features
        )
        written += job.write(RANKING_FEATURES, features, replace={c.MODEL_VERSION: version})
        of_task = job.read_written(RANKING_FEATURES).where(F.col(c.MODEL_VERSION) == version)
        without = of_task.where(F.col(c.PRECISE_SCORE).isNull()).count()
        job.metrics[f"share_without_vectors/{task}"] = without / max(impressions, 1)
        job.say(f"{task}: {without:,} of {impressions:,} impressions have no pair of vectors")
    before = (total - impressions) * len(tasks)
    job.say(f"{total - impressions:,} impressions lie before as_of and were left out")
    job.balance("impressions over all tasks", rows_in=total * len(tasks), rows_out=written, rows_rejected=before)


def main(argv: Sequence[str] | None = None) -> int:
    return run_job("build_ranking_features", __doc__, build, argv)


if __name__ == "__main__":
    raise SystemExit(main())
