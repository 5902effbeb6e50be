"""Train the DCN ranking model alone and with PRECISE's vectors (section VI-C, Table IX).

A variant that has nothing to learn from yet is left out; its previous model, if there is one, stays in use.

Reads ranking_features and published_models. Writes a checkpoint folder per variant under <warehouse>/rankers.
"""

from precise_core.artefacts import put_rankers_in_use, rankers_in_use
from precise_core.command import command
from precise_core.errors import NothingToLearnError
from precise_core.monitoring.night import track_model
from precise_core.ranking.data import RankingData
from precise_core.ranking.night import (
    ranker_folder,
    ranking_slice,
    read_slice,
    variants,
)
from precise_core.ranking.train import RankerCheckpoint, train_ranker
from precise_core.ranking.variants import Variant
from precise_core.run.job import Job
from schemas import RANKING_FEATURES
from schemas import columns as c


@command()
def main(job: Job) -> None:
    previous, rows, used = rankers_in_use(job.root), 0, 0
    versions: dict[str, str] = {}
    for variant in variants(job):
        try:
            ranker, data = _train(job, variant)
        except NothingToLearnError as error:
            version = previous.get(variant.system)
            job.say(f"{variant.system}: left out, {error}; {version or 'none'} stays in use")
            versions |= {variant.system: version} if version else {}
            continue
        versions[variant.system] = ranker.ranker_version
        job.metrics[f"{variant.system}/validation_log_loss"] = ranker.metrics["validation_log_loss"]
        job.say(f"{variant.system}: {ranker.ranker_version}, validation {ranker.metrics['validation_log_loss']:.4f}")
        rows, used = rows + len(data), used + len(data.split(c.TRAIN)) + len(data.split(c.VALIDATION))
    job.require_held()
    put_rankers_in_use(job.root, versions)
    job.artefacts |= {f"ranker:{system}": version for system, version in versions.items()}
    job.balance("impressions (the test split is left out)", rows_in=rows, rows_out=used, rows_rejected=rows - used)


def _train(job: Job, variant: Variant) -> tuple[RankerCheckpoint, RankingData]:
    curves: list[dict[str, float]] = []

    def log_epoch(figures: dict[str, float]) -> None:
        curves.append(figures)
        job.say(f"{variant.system}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))

    settings, dcn = job.settings, variant.dcn(job.settings.dcn)
    data = RankingData.from_arrow(read_slice(job, ranking_slice(job, variant.task)))
    ranker = train_ranker(
        data.split(c.TRAIN),
        data.split(c.VALIDATION),
        dcn=dcn,
        config=settings.ranker,
        use_vectors=variant.use_vectors,
        seed=settings.seed,
        out=ranker_folder(job),
        progress=log_epoch,
        parent={"task": variant.task, "ranking_features": job.pin(RANKING_FEATURES)},
    )
    sizes = {"dcn": dcn.model_dump(mode="json"), "ranker": settings.ranker.model_dump(mode="json")}
    origin = {"system": variant.system, "seed": settings.seed, "parent": ranker.parent}
    track_model(job, ranker.ranker_version, {**sizes, **origin}, curves, ranker.metrics)
    return ranker, data


if __name__ == "__main__":
    raise SystemExit(main())
