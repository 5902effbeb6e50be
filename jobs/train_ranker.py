"""Train the DCN ranking model alone and with PRECISE's vectors (section VI-C, Table IX).

Reads ranking_features. Writes a checkpoint folder per variant under <warehouse>/rankers.
"""

from collections.abc import Sequence

from precise_core.errors import NothingToLearnError
from precise_core.runtime.job import Job, run_job
from precise_core.runtime.rankers import publish_rankers, ranker_folder, variants
from precise_core.runtime.ranking_tables import ranking_slice, read_slice
from precise_core.training.ranker import RankerProgress, train_ranker
from precise_core.training.ranking_data import RankingData
from schemas import RANKING_FEATURES


def train(job: Job) -> None:
    try:
        train_variants(job)
    except NothingToLearnError as error:
        publish_rankers(job, {})
        job.say(f"ranking: left out, {error}")
        job.balance("ranking models", rows_in=0, rows_out=0)


def train_variants(job: Job) -> None:
    settings, versions, rows, used = job.settings, {}, 0, 0
    for variant in variants(job):
        of_task = ranking_slice(job, variant.task)
        data = RankingData.from_arrow(read_slice(job, of_task))
        train_rows, validation_rows = data.split("train"), data.split("validation")
        ranker = train_ranker(
            train_rows,
            validation_rows,
            dcn=variant.dcn(settings.dcn),
            config=settings.ranker,
            use_vectors=variant.use_vectors,
            seed=settings.seed,
            out=ranker_folder(job),
            progress=_teller(job, variant.system),
            parent={"task": variant.task, "ranking_features": job.pin(RANKING_FEATURES)},
        )
        versions[variant.system] = ranker.ranker_version
        job.metrics[f"{variant.system}/validation_log_loss"] = ranker.metrics["validation_log_loss"]
        job.artefacts[f"ranker:{variant.system}"] = ranker.ranker_version
        job.say(f"{variant.system}: {ranker.ranker_version}, validation {ranker.metrics['validation_log_loss']:.4f}")
        rows, used = rows + len(data), used + len(train_rows) + len(validation_rows)
    publish_rankers(job, versions)
    job.balance("impressions (the test split is left out)", rows_in=rows, rows_out=used, rows_rejected=rows - used)


def _teller(job: Job, system: str) -> RankerProgress:
    return lambda figures: job.say(f"{system}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))


def main(argv: Sequence[str] | None = None) -> int:
    return run_job("train_ranker", __doc__, train, argv)


if __name__ == "__main__":
    raise SystemExit(main())
