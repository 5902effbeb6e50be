"""AUC, GAUC and log loss of the ranking models on the test impressions (Table IX)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from precise_core.errors import NothingToEvaluateError
from precise_core.evaluation.impressions import ImpressionTask, compare_impressions, evaluate_impressions
from precise_core.features.config import ALL_TASK
from precise_core.runtime.job import Job
from precise_core.runtime.published import published_checkpoint
from precise_core.runtime.rankers import current_rankers, ranking_tasks
from schemas import RANKING_FEATURES, RANKING_SCORES
from schemas import columns as c


def ranking_metrics(job: Job) -> list[dict[str, Any]]:
    """Rows of `evaluation_metrics` for every ranking model in use, all on the same impressions."""
    versions: dict[str, str | None] = dict(current_rankers(job))
    if not versions:
        raise NothingToEvaluateError("no ranking model was trained")
    impressions = _test_impressions(job)
    task = ImpressionTask(
        task=ALL_TASK,
        as_of=job.settings.as_of,
        user_ids_I=np.asarray(impressions[c.USER_ID].to_pandas()),
        labels_I=impressions[c.LABEL].to_numpy(),
        samples=job.settings.evaluation.bootstrap_samples,
        seed=job.settings.seed,
    )
    systems = {system: _probabilities(job, version, impressions) for system, version in versions.items() if version}
    plain = next(iter(systems))
    for found in compare_impressions(systems, plain, task):
        job.say(
            f"{found['system']} against {plain}: {found['metric']} {found['difference']:+.4f} "
            f"[{found['ci_low']:+.4f}, {found['ci_high']:+.4f}], p = {found['p_value']:.3f}"
        )
    return evaluate_impressions(systems, task, model_versions=versions)


def _test_impressions(job: Job) -> pa.Table:
    """Impressions of the test split, in a stable order; every variant has the same ones."""
    # Slices of older checkpoints stay in the table; their split belongs to another night.
    version = published_checkpoint(job, ranking_tasks(job)[0]).model_version
    features = job.warehouse.read_arrow(
        RANKING_FEATURES,
        job.pin(RANKING_FEATURES),
        [c.IMPRESSION_ID, c.USER_ID, c.LABEL, c.SPLIT],
        {c.MODEL_VERSION: version},
    )
    return features.filter(pc.equal(features[c.SPLIT], "test")).sort_by(c.IMPRESSION_ID)


def _probabilities(job: Job, version: str, impressions: pa.Table) -> np.ndarray:
    scores = job.warehouse.read_arrow(
        RANKING_SCORES, job.pin(RANKING_SCORES), [c.IMPRESSION_ID, c.SCORE], {c.RANKER_VERSION: version}
    )
    at = pc.index_in(impressions[c.IMPRESSION_ID], scores[c.IMPRESSION_ID].combine_chunks())
    return scores[c.SCORE].to_numpy()[at.to_numpy()]
