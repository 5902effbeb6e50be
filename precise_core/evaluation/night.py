"""The offline evaluation of a night: published vectors, candidates and ranking models against what users did next.

Everything is read from the tables that other teams read, so that the published state is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.config.tasks import ALL_TASK
from precise_core.data_sets.synthetic import days_after_start, interests
from precise_core.data_sets.synthetic_truth import item_probabilities, topic_probabilities
from precise_core.errors import CheckpointError, NothingToEvaluateError, NothingToLearnError, VersionMixError
from precise_core.evaluation.impressions import ImpressionTask, compare_impressions, evaluate_impressions, gains
from precise_core.evaluation.names import ORACLE
from precise_core.evaluation.overlap import source_figures
from precise_core.evaluation.protocol import evaluate_lists, evaluate_ranking
from precise_core.evaluation.published_lists import Bar, PublishedList, measure_lists, published_lists
from precise_core.evaluation.questions import (
    SECONDS,
    EvaluationInputs,
    EventArrays,
    OfflineEvaluation,
    QuestionSettings,
)
from precise_core.evaluation.references import Scorer, TruePreferences
from precise_core.evaluation.systems import encoded_system, published_system, recalled_lists
from precise_core.publication.night import published_checkpoint, published_version
from precise_core.ranking.night import current_rankers, ranking_slice, ranking_tasks, read_slice
from precise_core.recall.popular import excluded_items
from precise_core.run.job import Job
from precise_core.sources.config import SyntheticSource
from precise_core.tasks import events_before
from precise_core.training.checkpoint import UNTRAINED, Checkpoint, latest
from precise_core.training.night import item_catalog
from schemas import (
    EVENTS,
    ITEM_EMBEDDINGS,
    ITEM_VOCABULARY,
    ITEMS,
    PUBLISHED_MODELS,
    RANKING_SCORES,
    RECALL_CANDIDATES,
    RECOMMENDATIONS,
    USER_EMBEDDINGS,
    Table,
)
from schemas import columns as c

if TYPE_CHECKING:
    from precise_core.settings import Settings

_Rows = list[dict[str, Any]]  # of `evaluation_metrics`


def question_settings(settings: Settings) -> QuestionSettings:
    return QuestionSettings(settings.as_of, settings.tasks, settings.evaluation, settings.windows, settings.seed)


def gather(job: Job, settings: QuestionSettings, tasks: Sequence[str]) -> EvaluationInputs:
    """The events and the vocabulary, and which items may not be recommended for each of some tasks."""
    events, vocabulary = job.read(EVENTS), job.read(ITEM_VOCABULARY)
    arrays = event_arrays(events, vocabulary, settings.end)
    known = _table(job, ITEM_VOCABULARY, [c.ITEM_ID, c.ITEM_INDEX])
    catalog, excluded = (events, job.read(ITEMS), vocabulary), {}
    for task in tasks:
        rows = excluded_items(*catalog, settings.tasks, settings.as_of, task).toPandas()
        excluded[task] = rows[c.ITEM_INDEX].to_numpy(np.int64)
    return EvaluationInputs(arrays, known[c.ITEM_ID].combine_chunks(), known[c.ITEM_INDEX].to_numpy(), excluded)


def event_arrays(events: DataFrame, vocabulary: DataFrame, end: datetime) -> EventArrays:
    """The events strictly before ``end`` on items of the vocabulary, in this process."""
    index = vocabulary.select(c.ITEM_ID, c.ITEM_INDEX)
    seconds = F.unix_seconds(c.EVENT_TS).alias(SECONDS)
    known = events_before(events, end).join(index, on=c.ITEM_ID, how="inner")
    columns = (c.USER_ID, c.ITEM_INDEX, c.EVENT_TS, seconds, c.SCENE, c.ACTION, c.EVENT_ID)
    last_index = index.agg(F.max(c.ITEM_INDEX).alias(c.ITEM_INDEX)).collect()[0][c.ITEM_INDEX]
    return EventArrays.from_arrow(known.select(*columns).toArrow(), last_index + 1)


def offline_evaluation(job: Job, tasks: Sequence[str], settings: QuestionSettings | None = None) -> OfflineEvaluation:
    """The questions of some tasks, of the configuration, or of other ``settings``."""
    settings = settings or question_settings(job.settings)
    return OfflineEvaluation(gather(job, settings, tasks), settings)


def references(job: Job, evaluation: OfflineEvaluation, task: str) -> dict[str, Scorer]:
    """The simple references of a task, and for a synthetic world its oracle."""
    found, source = evaluation.references(task), job.settings.source
    return found | {ORACLE: _oracle(job, evaluation, source, task)} if isinstance(source, SyntheticSource) else found


def retrieval_rows(job: Job, evaluation: OfflineEvaluation, task: str) -> tuple[_Rows, Bar]:
    """Full ranking: our checkpoints, where any are published, beside the simple references, and what the published
    lists are compared with."""
    simple = references(job, evaluation, task)
    fallback = simple[evaluation.settings.evaluation.fallback_reference]
    ours, versions = _our_systems(job, evaluation, task, fallback)
    question = evaluation.question(task)
    retrieved = evaluate_ranking({**ours, **simple}, question, model_versions=versions)
    return retrieved.rows, Bar.of(retrieved, simple.keys() - {ORACLE}, question)


def recommendations_rows(job: Job, evaluation: OfflineEvaluation, task: str, bar: Bar) -> _Rows:
    """The published lists of a task, and each beside the best simple reference; nothing where there are none."""
    if not job.warehouse.exists(RECOMMENDATIONS):
        return []
    try:
        rows, lines = measure_lists(_lists_of_as_of(job, evaluation, task), evaluation.question(task), bar)
    except NothingToEvaluateError as error:
        job.say(f"{task}: recommendations not evaluated, {error}")
        return []
    for line in lines:
        job.say(line)
    return rows


def _lists_of_as_of(job: Job, evaluation: OfflineEvaluation, task: str) -> Iterable[PublishedList]:
    """The lists, if they were made without the truth."""
    settings = evaluation.settings
    if not settings.is_by_time:
        raise NothingToEvaluateError("with windows.split leave_one_out the published lists know the truth")
    names = [c.USER_ID, c.LIST, c.RANK, c.ITEM_ID, c.MODEL_VERSION, c.AS_OF]
    rows = _table(job, RECOMMENDATIONS, names, {c.TASK: task})
    if not rows.num_rows:
        raise NothingToEvaluateError(f"there are none of {task}; run jobs/{RECOMMENDATIONS.written_by}.py")
    made_at = pc.max(rows[c.AS_OF]).as_py()
    if made_at != settings.as_of:
        raise NothingToEvaluateError(
            f"they are of {made_at:%Y-%m-%d %H:%M}, the evaluation is of {settings.as_of:%Y-%m-%d %H:%M}; run "
            f"jobs/{RECOMMENDATIONS.written_by}.py"
        )
    return published_lists(evaluation, rows, job.settings.recommendations.lists, task)


def recall_rows(job: Job, evaluation: OfflineEvaluation, task: str) -> _Rows:
    """The recalled candidates of a task, per source (Table VIII)."""
    version, config = published_checkpoint(job, task).model_version, job.settings.recall
    candidates = _table(job, RECALL_CANDIDATES, where={c.MODEL_VERSION: version})
    lists = recalled_lists(evaluation, candidates, config.k)
    question, user_filter = evaluation.question(task), "new" if config.filter_seen else "all"
    between = source_figures(lists, question, user_filter=user_filter, model_version=version)
    versions = dict.fromkeys(lists, version)
    return evaluate_lists(lists, question, user_filter=user_filter, model_versions=versions).rows + between


def ranking_rows(job: Job) -> _Rows:
    """AUC, GAUC and log loss of every ranking model in use, all on the same impressions (Table IX)."""
    rankers = current_rankers(job)
    versions: dict[str, str | None] = dict(rankers)
    impressions = impressions_to_test_on(job, ranking_tasks(job))
    task = ImpressionTask(
        task=ALL_TASK,
        as_of=job.settings.as_of,
        user_ids_I=np.asarray(impressions[c.USER_ID].to_pandas()),
        labels_I=impressions[c.LABEL].to_numpy(),
        samples=job.settings.evaluation.bootstrap_samples,
        seed=job.settings.seed,
    )
    systems = _probabilities(job, rankers, impressions)
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

    A task without joined impressions is left out.
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


def _probabilities(job: Job, rankers: dict[str, str], impressions: pa.Table) -> dict[str, np.ndarray]:
    """By system, of those that have scored every impression; the others are logged."""
    found = {}
    for system, version in rankers.items():
        scores = _table(job, RANKING_SCORES, [c.IMPRESSION_ID, c.SCORE], {c.RANKER_VERSION: version}).combine_chunks()
        at = pc.index_in(impressions[c.IMPRESSION_ID], scores[c.IMPRESSION_ID].combine_chunks())
        if at.null_count:
            job.say(
                f"{system}: not compared, {at.null_count:,} of {len(at):,} test impressions have no score of "
                f"{version}; run jobs/score_ranking.py"
            )
            continue
        found[system] = scores[c.SCORE].to_numpy()[at.to_numpy()]
    return found


def _our_systems(
    job: Job, evaluation: OfflineEvaluation, task: str, fallback: Scorer
) -> tuple[dict[str, Scorer], dict[str, str | None]]:
    """Our systems that are evaluated on a task, and their checkpoints; none where no model was ever published."""
    if not job.warehouse.exists(PUBLISHED_MODELS):
        return {}, {}
    universal = published_checkpoint(job, ALL_TASK)
    systems: dict[str, Scorer] = {c.PRECISE_UT: _published(job, evaluation, universal, ALL_TASK, fallback)}
    versions: dict[str, str | None] = {c.PRECISE_UT: universal.model_version}
    if task == ALL_TASK:
        untrained = latest(job.checkpoints, UNTRAINED)
        catalog = item_catalog(job, untrained)
        systems[c.PRECISE_UNTRAINED] = encoded_system(evaluation, untrained, catalog, task, fallback)
        versions[c.PRECISE_UNTRAINED] = untrained.model_version
        return systems, versions
    try:
        targeted = published_checkpoint(job, task)
    except CheckpointError as error:
        job.say(f"{task}: no targeted model to evaluate, {error}")
        return systems, versions
    systems[c.PRECISE] = _published(job, evaluation, targeted, task, fallback)
    versions[c.PRECISE] = targeted.model_version
    return systems, versions


def _published(job: Job, evaluation: OfflineEvaluation, checkpoint: Checkpoint, task: str, fallback: Scorer) -> Scorer:
    """The system of a checkpoint's published vectors; VersionMixError where there are none."""
    where = {c.MODEL_VERSION: checkpoint.model_version}
    items, users = (
        job.warehouse.read_arrow(table, published_version(job, task, table), where=where)
        for table in (ITEM_EMBEDDINGS, USER_EMBEDDINGS)
    )
    users = users.filter(pc.equal(users[c.TASK], task))
    for table, rows in ((ITEM_EMBEDDINGS, items), (USER_EMBEDDINGS, users)):
        if not rows.num_rows:
            raise VersionMixError(
                f"{table.name} has no vectors of {checkpoint.model_version}; run jobs/{table.written_by}.py"
            )
    return published_system(evaluation, items, users, checkpoint.manifest.model.fusion.width, fallback)


def _oracle(job: Job, evaluation: OfflineEvaluation, source: SyntheticSource, task: str) -> Scorer:
    """The true preferences of the synthetic world in the middle of the test period."""
    settings = evaluation.settings
    of_task = settings.tasks.get(task)
    action, scene = (None, None) if of_task is None else (of_task.action, of_task.scene)
    middle = settings.as_of + timedelta(days=settings.evaluation.test_days / 2)
    users = interests(job.spark, source, days_after_start(source, middle)).collect()
    known = {row[c.USER_ID]: (row["first"], row["second"]) for row in users}
    topics_UT = np.stack([topic_probabilities(source, *known[user], action) for user in evaluation.user_ids])
    is_published = (F.col(c.PUBLISHED_TS) <= F.lit(middle)).alias("is_published")
    items = job.read(ITEMS).select(c.ITEM_ID, is_published).toArrow()
    numbers = [int(item_id.rpartition("-")[2]) for item_id in items[c.ITEM_ID].to_pylist()]
    found = item_probabilities(source, numbers, np.asarray(items["is_published"].to_pandas(), bool), scene)
    known_N, items_TN = evaluation.is_item(items[c.ITEM_ID]), np.zeros((source.topics, evaluation.num_rows))
    items_TN[:, evaluation.item_rows(items[c.ITEM_ID].filter(pa.array(known_N)))] = found[:, known_N]
    return TruePreferences(topics_UT, items_TN)


def _table(
    job: Job, table: Table, columns: Sequence[str] | None = None, where: Mapping[str, str] | None = None
) -> pa.Table:
    return job.warehouse.read_arrow(table, job.pin(table), columns, where)
