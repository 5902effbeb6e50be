"""Apply the ranking models in use to every impression.

Reads ranking_features and the ranker checkpoints. Writes ranking_scores, one slice per ranker_version.
"""

from collections.abc import Sequence

from pyspark.sql import functions as F

from precise_core.inference.ranking import score_impressions
from precise_core.inference.scores import one_version
from precise_core.runtime.job import Job, run_job
from precise_core.runtime.published import published_checkpoint
from precise_core.runtime.rankers import current_rankers, ranker_folder, variants
from schemas import RANKING_FEATURES, RANKING_SCORES
from schemas import columns as c


def score(job: Job) -> None:
    features, rankers = job.read(RANKING_FEATURES), current_rankers(job)
    rows_in, rows_out = 0, 0
    for variant in variants(job):
        if variant.system not in rankers:
            job.say(f"{variant.system}: no ranking model was trained, left out")
            continue
        version = rankers[variant.system]
        model_version = published_checkpoint(job, variant.task).model_version
        of_version = one_version(features, model_version, "ranking_features")
        scores = score_impressions(job.spark, of_version, ranker_folder(job) / version)
        rows_out += job.write(RANKING_SCORES, scores, replace={c.RANKER_VERSION: version})
        rows_in += features.where(F.col(c.MODEL_VERSION) == model_version).count()
    job.balance("impressions over all variants", rows_in=rows_in, rows_out=rows_out)


def main(argv: Sequence[str] | None = None) -> int:
    return run_job("score_ranking", __doc__, score, argv)


if __name__ == "__main__":
    raise SystemExit(main())
