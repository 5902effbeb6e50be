"""AUC, GAUC and log loss of the ranking models on the test impressions (Table IX)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from precise_core.config.tasks import ALL_TASK
from precise_core.errors import NothingToEvaluateError, NothingToLearnError
from precise_core.evaluation.impressions import ImpressionTask, compare_impressions, evaluate_impressions, gains
from precise_core.ranking.night import current_rankers, ranking_slice, ranking_tasks, read_slice
from precise_core.run.job import Job
from schemas import RANKING_SCORES
from schemas import columns as c


def ranking_metrics(job: Job) -> list[dict[str, Any]]:
    """Rows of `evaluation_metrics` for every ranking model in use, all on the same impressions.

    Raises:
        NothingToEvaluateError: The plain model, which the others are compared with, has no scores of these impressions.
    """
    versions: dict[str, str | None] = dict(current_rankers(job))
    impressions = impressions_to_test_on(job, ranking_tasks(job))
    task = ImpressionTask(
        task=ALL_TASK,
        as_of=job.settings.as_of,
        user_ids_I=np.asarray(impressions[c.USER_ID].to_pandas()),
        labels_I=impressions[c.LABEL].to_numpy(),
        samples=job.settings.evaluation.bootstrap_samples,
        seed=job.settings.seed,
    )
    systems = _probabilities(job, current_rankers(job), impressions)
    if c.DCN not in systems:
        raise NothingToEvaluateError(f"{c.DCN}, which the others are compared with, has no scores of these impressions")
    compared = compare_impressions(systems, c.DCN, task)
    for found in compared:
        job.say(
            f"{found['system']} against {c.DCN}: {found['metric']} {found['difference']:+.4f} "
            f"[{found['ci_low']:+.4f}, {found['ci_high']:+.4f}], p = {found['p_value']:.3f}"
        )
    rows = evaluate_impressions(systems, task, model_versions=versions)
    return rows + gains(compared, task, model_versions=versions)


def impressions_to_test_on(job: Job, tasks: Sequence[str]) -> pa.Table:
    """Impressions of the test split of every task, by id: no ranking model has learned from any of them.

    A task that no impression was joined for has no say.

    Raises:
        NothingToEvaluateError: There is none.
    """
    columns = [c.IMPRESSION_ID, c.USER_ID, c.LABEL, c.SPLIT]
    found: pa.Table | None = None
    for task in tasks:
        try:
            rows = read_slice(job, ranking_slice(job, task), columns).sort_by(c.IMPRESSION_ID)
        except NothingToLearnError as error:
            job.say(f"{task}: not among the impressions to test on, {error}")
            continue
        mine = rows.filter(pc.equal(rows[c.SPLIT], c.TEST))
        if found is not None:
            found = found.filter(pc.is_in(found[c.IMPRESSION_ID], mine[c.IMPRESSION_ID].combine_chunks()))
        found = mine if found is None else found
    if found is None or not found.num_rows:
        raise NothingToEvaluateError("no impression is in the test split of every task")
    return found


def _probabilities(job: Job, rankers: Mapping[str, str], impressions: pa.Table) -> dict[str, np.ndarray]:
    """By system, of those that have scored every impression; the others are said."""
    found = {}
    for system, version in rankers.items():
        columns, where = [c.IMPRESSION_ID, c.SCORE], {c.RANKER_VERSION: version}
        scores = job.warehouse.read_arrow(RANKING_SCORES, job.pin(RANKING_SCORES), columns, where).combine_chunks()
        at = pc.index_in(impressions[c.IMPRESSION_ID], scores[c.IMPRESSION_ID].combine_chunks())
        if at.null_count:
            job.say(
                f"{system}: not compared, {at.null_count:,} of {len(at):,} test impressions have no score of "
                f"{version}; run jobs/score_ranking.py"
            )
            continue
        found[system] = scores[c.SCORE].to_numpy()[at.to_numpy()]
    return found
