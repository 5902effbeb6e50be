"""AUC, GAUC and log loss of the ranking models on the test impressions (Table IX)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from precise_core.evaluation.bootstrap import auc_interval, mean_interval
from precise_core.evaluation.metrics import auc_by_user, log_loss_by_user
from precise_core.features.config import ALL_TASK
from precise_core.runtime.job import Job
from precise_core.runtime.rankers import current_rankers
from schemas import RANKING_FEATURES, RANKING_SCORES
from schemas import columns as c


def ranking_metrics(job: Job) -> list[dict[str, Any]]:
    """Rows of `evaluation_metrics` for every ranking model in use, all on the same impressions."""
    features = job.warehouse.read_arrow(
        RANKING_FEATURES, job.pin(RANKING_FEATURES), [c.IMPRESSION_ID, c.USER_ID, c.LABEL, c.SPLIT]
    )
    test = features.filter(pc.equal(features[c.SPLIT], "test")).group_by([c.IMPRESSION_ID, c.USER_ID, c.LABEL])
    impressions = test.aggregate([]).sort_by(c.IMPRESSION_ID)
    rows = []
    for system, version in current_rankers(job).items():
        scores = job.warehouse.read_arrow(
            RANKING_SCORES, job.pin(RANKING_SCORES), [c.IMPRESSION_ID, c.SCORE], {c.RANKER_VERSION: version}
        )
        rows += _rows(job, system, version, impressions, scores)
    return rows


def _rows(job: Job, system: str, version: str, impressions: pa.Table, scores: pa.Table) -> list[dict[str, Any]]:
    at = pc.index_in(impressions[c.IMPRESSION_ID], scores[c.IMPRESSION_ID].combine_chunks())
    probabilities_I = scores[c.SCORE].to_numpy()[at.to_numpy()]
    users_I = np.asarray(impressions[c.USER_ID].to_pandas())
    labels_I = impressions[c.LABEL].to_numpy()
    samples, seed = job.settings.evaluation.bootstrap_samples, job.settings.seed
    users_U, aucs_U, weights_U = auc_by_user(users_I, labels_I, probabilities_I)
    _, losses_U, shown_U = log_loss_by_user(users_I, labels_I, probabilities_I)
    # Resampling the plain AUC sorts all impressions anew each time: a fifth of the samples is enough for two digits.
    figures = {
        "auc": (auc_interval(users_I, labels_I, probabilities_I, samples // 5, seed), len(np.unique(users_I))),
        "gauc": (mean_interval(aucs_U, samples, seed, weights_U), int((~np.isnan(aucs_U)).sum())),
        "log_loss": (mean_interval(losses_U, samples, seed, shown_U), len(losses_U)),
    }
    return [
        {
            "question": "ranking",
            c.TASK: ALL_TASK,
            "system": system,
            c.MODEL_VERSION: version,
            "user_filter": "all",
            "item_group": "all",
            "metric": metric,
            "k": 0,
            "value": value,
            "ci_low": low,
            "ci_high": high,
            "users": users,
            c.AS_OF: job.settings.as_of,
        }
        for metric, ((value, low, high), users) in figures.items()
    ]
