"""Join every impression with what may be known at its instant, PRECISE vectors included (section VI-C, Fig. 7).

Reads impressions, events, items, published_models, and user_embeddings and item_embeddings as they were at every
publication. Writes ranking_features: each impression with the vectors that were the newest ones at its instant.
"""

from precise_core.command import command
from precise_core.ranking.night import RankingFeatures, tell_of_missing_vectors
from precise_core.ranking.variants import ranking_tasks
from precise_core.run.job import Job
from schemas import IMPRESSIONS, RANKING_FEATURES
from schemas import columns as c


@command()
def main(job: Job) -> None:
    total, written, left_out = job.read(IMPRESSIONS).count(), 0, 0
    tasks = ranking_tasks(job)
    for task in tasks:
        features = RankingFeatures(job, task)
        left_out += total - features.count()
        written += job.write(RANKING_FEATURES, features.rows, replace={c.TASK: task})
        tell_of_missing_vectors(job, task)
    job.say(
        f"{left_out:,} lie before the first publication, or before the last {job.settings.ranking_features.days} days"
    )
    job.balance("impressions over all tasks", rows_in=total * len(tasks), rows_out=written, rows_rejected=left_out)


if __name__ == "__main__":
    raise SystemExit(main())
