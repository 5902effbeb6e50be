"""Make every user's lists: candidates of all sources, ranked by the published order of each list, with a reason.

Reads events, items, item_vocabulary, item_neighbours, impressions (whose users are known too), published_models,
user_embeddings, the published indexes and the ranking model of lists in use. Writes recommendations.
"""

from precise_core.command import command
from precise_core.recommendations.knowledge import known_at
from precise_core.recommendations.night import (
    balance_users,
    catalog_of,
    current_ranker,
    gather,
    recommendation_rows,
    require_space,
    shipped_with_models,
    stored_neighbours,
    without_history,
)
from precise_core.recommendations.spark import recommended, with_vectors
from precise_core.run.job import Job
from precise_core.warehouse.instants import micros
from precise_core.warehouse.spark_errors import worker_errors
from schemas import RECOMMENDATIONS
from schemas import columns as c


@command()
def main(job: Job) -> None:
    log, ranker = gather(job), current_ranker(job)
    if ranker is None:
        job.say("nothing has been learned yet: own history and similar users are in use, popular items behind them")
    else:
        require_space(job, ranker)
    with worker_errors():
        histories, catalog = log.histories().persist(), catalog_of(log)
        near = stored_neighbours(job, len(catalog))
        known = known_at(job.spark, histories, log, catalog, micros(log.end), near)
        sent, vectors = shipped_with_models(job, known, log)
        lists = recommended(with_vectors(histories, vectors), sent, ranker.folder if ranker else None, job.spark)
        others = without_history(job, known, log, histories)
        rows = recommendation_rows(lists.unionByName(others), log)
        job.write(RECOMMENDATIONS, rows)
        expected = histories.select(c.USER_ID).unionByName(others.select(c.USER_ID).distinct())
        balance_users(job, RECOMMENDATIONS, expected)
        histories.unpersist()


if __name__ == "__main__":
    raise SystemExit(main())
