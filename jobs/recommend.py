"""Make every user's lists: candidates of all sources, ranked by the published order of each list, with a reason.

Lists far from the published ones are refused (gates.lists): nothing is written, and readers keep the old ones.

Reads events, items, item_vocabulary, item_neighbours, impressions (whose users are known too), published_models,
user_embeddings, the published indexes and the ranking model of lists in use. Writes recommendations.
"""

from pyspark.sql import DataFrame

from precise_core.command import command, switch
from precise_core.recommendations.knowledge import known_at
from precise_core.recommendations.night import (
    balance_users,
    catalog_of,
    change_facts,
    current_ranker,
    gather,
    require_past,
    require_space,
    say_unlearned,
    shipped_with_models,
    stored_neighbours,
    users_without_history,
)
from precise_core.recommendations.rows import popular_lists, recommendation_rows
from precise_core.recommendations.spark import recommended, with_vectors
from precise_core.run.job import Job
from precise_core.warehouse.instants import micros
from precise_core.warehouse.spark_errors import worker_errors
from schemas import RECOMMENDATIONS
from schemas import columns as c
from validation.publication import FAIL, WARN, gate_lists


@command(switch("--accept-change", "publish lists that are beyond a limit of gates.lists"))
def main(job: Job) -> None:
    log, ranker = gather(job), current_ranker(job)
    say_unlearned(job, ranker, log)
    require_space(job, ranker)
    require_past(job, ranker)
    with worker_errors():
        histories, catalog = log.histories().persist(), catalog_of(log)
        near = stored_neighbours(job, len(catalog))
        known = known_at(job.spark, histories, log, catalog, micros(log.end), near)
        sent, vectors = shipped_with_models(job, known, log, ranker)
        lists = recommended(with_vectors(histories, vectors), sent, ranker.folder if ranker else None, job.spark)
        others = users_without_history(job, log, histories).persist()
        rows = recommendation_rows(lists.unionByName(popular_lists(job.spark, known, log, others)), log)
        expected = histories.select(c.USER_ID).unionByName(others)
        job.write(RECOMMENDATIONS, rows, check=lambda new: _gate(job, new, expected))
        balance_users(job, RECOMMENDATIONS, expected)
        others.unpersist()
        histories.unpersist()


def _gate(job: Job, new: DataFrame, expected: DataFrame) -> None:
    limits, level = job.settings.gates.lists, WARN if job.arguments.accept_change else FAIL
    found = change_facts(job, new, expected)
    outcomes = [
        gate_lists(job.spark, facts, run_id=job.run_id, task=task, limits=limits, level=level)
        for task, facts in found.items()
    ]
    for outcome in outcomes:
        job.check(outcome)


if __name__ == "__main__":
    raise SystemExit(main())
