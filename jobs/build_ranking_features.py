"""Join every impression with what may be known at its instant, PRECISE vectors included (section VI-C, Fig. 7).

Reads impressions, events, items, published_models, user_embeddings and item_embeddings as they were at every
publication, and ranking_features of the previous night. Writes ranking_features: each impression with the vectors that
were the newest ones at its instant.
"""

from precise_core.command import command
from precise_core.ranking.features import ranking_features
from precise_core.ranking.night import gather, log_missing_vectors, ranking_tasks
from precise_core.run.job import Job
from schemas import IMPRESSIONS, RANKING_FEATURES
from schemas import columns as c


@command()
def main(job: Job) -> None:
    config, total, written, left_out = job.settings.ranking_features, job.read(IMPRESSIONS).count(), 0, 0
    tasks = ranking_tasks(job)
    for task in tasks:
        rows, number = ranking_features(gather(job, task), config)
        left_out += total - number
        written += job.write(RANKING_FEATURES, rows, replace={c.TASK: task})
        log_missing_vectors(job, task)
    job.say(f"{left_out:,} lie before the first publication, or before the last {config.days} days")
    job.balance("impressions over all tasks", rows_in=total * len(tasks), rows_out=written, rows_rejected=left_out)


if __name__ == "__main__":
    raise SystemExit(main())
