"""Candidates of a fixed sample of users before an earlier instant, with features, and what of them was then taken.

The instant lies `recommendations.horizon_days` before `as_of`; from what happened since, the ranking model of lists
learns. Nothing from the instant on is in a feature.

Scores are those of the vectors that were published at the instant, where there were any.

Reads events, impressions, items, item_vocabulary and item_tokens; published_models, user_embeddings and item_embeddings
as they were at the instant. Writes candidate_features.
"""

from precise_core.command import command
from precise_core.recommendations.knowledge import known_at
from precise_core.recommendations.night import (
    balance_users,
    catalog_of,
    gather_with_text,
    learners,
    past_instant,
    shipped_with_past_models,
)
from precise_core.recommendations.rows import feature_rows
from precise_core.recommendations.spark import training_rows, with_vectors
from precise_core.run.job import Job
from precise_core.warehouse.instants import micros
from precise_core.warehouse.spark_errors import worker_errors
from schemas import CANDIDATE_FEATURES
from schemas import columns as c


@command()
def main(job: Job) -> None:
    log = gather_with_text(job)
    when = past_instant(job)
    with worker_errors():
        histories = log.histories().persist()
        known = known_at(job.spark, histories, log, catalog_of(log), micros(when), say=job.say)
        chosen, held_out_share = learners(histories, job, log, when)
        sent, vectors, model_version = shipped_with_past_models(job, known, log, when)
        rows = training_rows(with_vectors(chosen, vectors), sent, job.settings.seed)
        job.write(CANDIDATE_FEATURES, feature_rows(rows, log, when, model_version, held_out_share))
        balance_users(job, CANDIDATE_FEATURES, chosen.select(c.USER_ID))
        histories.unpersist()


if __name__ == "__main__":
    raise SystemExit(main())
