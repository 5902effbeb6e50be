"""Candidates of a fixed sample of users before an earlier instant, with features, and what of them was then taken.

The instant lies `recommendations.horizon_days` before `as_of`; from what happened since, the ranking model of lists
learns. Nothing from the instant on is in a feature.

Reads events, items and item_vocabulary. Writes candidate_features.
"""

from precise_core.command import command
from precise_core.recommendations.knowledge import known_at
from precise_core.recommendations.night import (
    catalog_of,
    feature_rows,
    gather,
    learners,
    micros,
    past_instant,
    shipped_without_models,
)
from precise_core.recommendations.spark import training_rows
from precise_core.run.job import Job
from precise_core.warehouse.spark_errors import worker_errors
from schemas import CANDIDATE_FEATURES


@command()
def main(job: Job) -> None:
    log = gather(job)
    when = past_instant(job, log)
    with worker_errors():
        histories = log.histories().persist()
        (known,) = known_at(job.spark, histories, log, catalog_of(log), [micros(when)])
        rows = training_rows(learners(histories, job), shipped_without_models(job, known, log), job.settings.seed)
        written = job.write(CANDIDATE_FEATURES, feature_rows(rows, log, when, None))
        histories.unpersist()
    job.balance("candidates", rows_in=written, rows_out=written)


if __name__ == "__main__":
    raise SystemExit(main())
