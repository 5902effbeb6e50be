"""Ranking in a night: the inputs of the features, the rows of a model, and the models in use."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F

from precise_core import artefacts
from precise_core.config.tasks import ALL_TASK
from precise_core.consume.join_spark import held_vectors, published_versions, readable_publications
from precise_core.consume.publications import publication_history
from precise_core.errors import CheckpointError
from precise_core.publication.night import published_tasks
from precise_core.ranking.data import RankingSlice, choose_slice
from precise_core.ranking.features import FeatureInputs
from precise_core.ranking.variants import Variant, variants_of
from precise_core.run.job import Job
from precise_core.store import Place, below
from schemas import EVENTS, IMPRESSIONS, ITEMS, PUBLISHED_MODELS, RANKING_FEATURES
from schemas import columns as c


def ranking_tasks(job: Job) -> list[str]:
    """The tasks of `ranking_features.tasks` that are published; never none, since the universal one is needed."""
    published = published_tasks(job)
    return [task for task in job.settings.ranking_features.tasks if task in published] or [ALL_TASK]


def gather(job: Job, task: str) -> FeatureInputs:
    """The impressions, events and items, and every published vector of the task that can still be read."""
    published = publication_history(job.root, task, job.pin(PUBLISHED_MODELS))
    history = readable_publications(job.root, published)
    stored = job.read_optional(RANKING_FEATURES)
    users, items = held_vectors(job.spark, job.root, history)
    return FeatureInputs(
        task=task,
        versions=published_versions(history),
        impressions=job.read(IMPRESSIONS),
        events=job.read(EVENTS),
        items=job.read(ITEMS),
        user_vectors=users,
        item_vectors=items,
        stored=stored,
    )


def log_missing_vectors(job: Job, task: str) -> None:
    """Log and record how many impressions of each checkpoint have no user vector, no item vector, no pair."""
    counted = job.read_written(RANKING_FEATURES).where(F.col(c.TASK) == task).groupBy(c.MODEL_VERSION)
    missing = {"pair": c.PRECISE_SCORE, "user": c.USER_EMBEDDING, "item": c.ITEM_EMBEDDING}
    counts = [F.count_if(F.col(column).isNull()).alias(name) for name, column in missing.items()]
    found = counted.agg(F.count("*").alias("rows"), *counts).orderBy(c.MODEL_VERSION).collect()
    for row in found:
        job.say(
            f"{task}, {row[c.MODEL_VERSION]}: {row['pair']:,} of {row['rows']:,} impressions have no pair of vectors "
            f"(no user vector {row['user']:,}, no item vector {row['item']:,})"
        )
    rows = max(sum(row["rows"] for row in found), 1)
    for metric, name in (("vectors", "pair"), ("user_vector", "user"), ("item_vector", "item")):
        job.metrics[f"share_without_{metric}/{task}"] = sum(row[name] for row in found) / rows


def ranking_slice(job: Job, task: str, space: str | None = None) -> RankingSlice:
    """``choose_slice`` of the table as the run reads it."""
    columns = [c.TASK, c.VECTOR_SPACE, c.MODEL_VERSION, c.IMPRESSION_TS]
    rows = job.warehouse.read_arrow(RANKING_FEATURES, job.pin(RANKING_FEATURES), columns)
    return choose_slice(rows, task, space)


def read_slice(job: Job, of: RankingSlice, columns: Sequence[str] | None = None) -> pa.Table:
    """The slice's rows; all columns, or some beside task and vector_space."""
    names = list(dict.fromkeys([*(columns or RANKING_FEATURES.column_names), c.TASK, c.VECTOR_SPACE]))
    where = {c.MODEL_VERSION: of.model_versions}
    rows = job.warehouse.read_arrow(RANKING_FEATURES, job.pin(RANKING_FEATURES), names, where)
    return rows.filter(pc.and_(pc.equal(rows[c.TASK], of.task), pc.equal(rows[c.VECTOR_SPACE], of.space)))


def variants(job: Job) -> list[Variant]:
    """Those of the tasks named in `ranking_features.tasks`."""
    return variants_of(ranking_tasks(job), ablations=job.settings.ranker.ablations)


def ranker_folder(job: Job) -> Place:
    return below(job.root, artefacts.RANKERS)


def current_rankers(job: Job) -> dict[str, str]:
    """As ``artefacts.rankers_in_use``; CheckpointError where no ranking model was trained yet."""
    if not artefacts.has_rankers(job.root):
        raise CheckpointError(f"no ranking model in {ranker_folder(job)}; run jobs/train_ranker.py first")
    return artefacts.rankers_in_use(job.root)
