"""Apply the ranking models in use to every impression.

Reads ranking_features, published_models and the ranking models. Writes ranking_scores, one slice per ranker_version.
"""

from precise_core.command import command
from precise_core.errors import NothingToLearnError
from precise_core.ranking.night import current_rankers, ranker_folder, ranking_slice, variants
from precise_core.ranking.spark import is_in_slice, score_impressions
from precise_core.ranking.train import RankerCheckpoint
from precise_core.run.job import Job
from precise_core.store import below
from precise_core.warehouse.spark_errors import worker_errors
from schemas import RANKING_FEATURES, RANKING_SCORES
from schemas import columns as c


@command()
def main(job: Job) -> None:
    features, rankers = job.read(RANKING_FEATURES), current_rankers(job)
    rows_in, rows_out = 0, 0
    for variant in variants(job):
        if variant.system not in rankers:
            job.say(f"{variant.system}: no ranking model was trained, left out")
            continue
        ranker = RankerCheckpoint.open(below(ranker_folder(job), rankers[variant.system]))
        try:
            of_task = features.where(is_in_slice(ranking_slice(job, variant.task, ranker.space)))
        except NothingToLearnError as error:
            job.say(f"{variant.system}: {ranker.ranker_version} has nothing to score, {error}")
            continue
        with worker_errors():
            scores = score_impressions(job.spark, of_task, ranker)
            rows_out += job.write(RANKING_SCORES, scores, replace={c.RANKER_VERSION: ranker.ranker_version})
        rows_in += of_task.count()
    job.balance("impressions over all variants", rows_in=rows_in, rows_out=rows_out)


if __name__ == "__main__":
    raise SystemExit(main())
