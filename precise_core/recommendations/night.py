"""Lists in a night: what the jobs read, the model of then and the one in use, and what is balanced."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy import sparse

from precise_core import artefacts
from precise_core.config.tasks import ALL_TASK
from precise_core.consume.join_spark import readable_publications
from precise_core.consume.publications import Publication, publication_history, published_now, vector_space
from precise_core.errors import CheckpointError, DataError, HistoryGoneError
from precise_core.index.index import build_index
from precise_core.publication.night import published_checkpoint, published_index, published_tasks, published_vectors
from precise_core.recommendations.batches import MICROS_PER_DAY
from precise_core.recommendations.knowledge import Catalog, Log, is_sampled, read_catalog
from precise_core.recommendations.list_changes import list_changes, served_share
from precise_core.recommendations.names import ALL_LISTS, ITEM_TO_ITEM, TEXT, UNLEARNED_IN_USE
from precise_core.recommendations.pair_vectors import UniversalVectors
from precise_core.recommendations.point_in_time import PointInTime
from precise_core.recommendations.ranker_files import PublishedRanker
from precise_core.recommendations.spark import IS_HELD_OUT, SHOWN, Shipped, ship_known
from precise_core.run.job import Job
from precise_core.store import Place, below
from precise_core.tasks import events_before
from precise_core.vectors.shipping import ship
from precise_core.warehouse.arrow_lists import fixed_lists
from precise_core.warehouse.instants import instant, micros
from precise_core.warehouse.tables import with_new_columns
from schemas import (
    EVENTS,
    IMPRESSIONS,
    ITEM_EMBEDDINGS,
    ITEM_NEIGHBOURS,
    ITEM_TOKENS,
    ITEM_VOCABULARY,
    ITEMS,
    PUBLISHED_MODELS,
    RECOMMENDATIONS,
    USER_EMBEDDINGS,
    Table,
)
from schemas import columns as c

_STALE = timedelta(days=7)  # vectors of then may be so much older than the instant
_THIRDS = 3  # two before the instant, one after it


def gather(job: Job) -> Log:
    """The events before `as_of`, and the catalog."""
    settings = job.settings
    tables = (job.read(EVENTS), job.read(ITEMS), job.read(ITEM_VOCABULARY))
    return Log(*tables, settings.tasks, settings.as_of, settings.recommendations)


def gather_with_text(job: Job) -> Log:
    """The same with `item_tokens`, where the source `text` is on."""
    log = gather(job)
    return replace(log, tokens=job.read(ITEM_TOKENS)) if log.config.k_of(TEXT) else log


def past_instant(job: Job) -> datetime:
    """The beginning of the period whose events are the labels; logged, with the length and why, and recorded."""
    end, configured = job.settings.as_of, job.settings.recommendations.horizon_days
    if configured is not None:
        days, why = configured, "recommendations.horizon_days"
    else:
        events = events_before(job.read(EVENTS), end)
        first = events.agg(F.unix_micros(F.min(c.EVENT_TS)).alias("first")).collect()[0]["first"]
        span = 0.0 if first is None else (micros(end) - first) / MICROS_PER_DAY
        days, why = float(job.settings.evaluation.test_days), "evaluation.test_days"
        if days > span / _THIRDS:
            days, why = span / _THIRDS, f"a third of the log, which has {span:.1f} days"
    job.metrics["lists/horizon_days"] = days
    when = (end - timedelta(days=days)).replace(microsecond=0)  # a night can be as of it
    job.say(f"candidates before {when:%Y-%m-%d %H:%M}, labels from the {days:.4g} days since ({why})")
    return when


def learners(histories: DataFrame, job: Job, log: Log, when: datetime) -> tuple[DataFrame, float]:
    """A fixed sample of users, which of them are held out, and what they were shown since the instant; and the share
    held out.

    Of those with an event before it: whoever has none gets what is popular, in no learned order.
    """
    config = job.settings.recommendations
    histories = histories.where(F.element_at(c.EVENT_TS, 1) < micros(when))
    is_there_later = (F.element_at(c.EVENT_TS, -1) >= micros(when)).cast("int")
    counts = histories.agg(F.count("*").alias("users"), F.sum(is_there_later).alias("takers")).collect()[0]
    share = min(config.training_users / max(counts["users"], 1), 1.0)
    of_learners = config.ranker.held_out_share(counts["users"] * share, (counts["takers"] or 0) * share)
    held_out = is_sampled(of_learners, salt=f"held out {job.settings.seed}")
    sample = is_sampled(share, salt="learners")
    chosen = histories.where(sample).withColumn(IS_HELD_OUT, held_out)
    shown = job.read_optional(IMPRESSIONS)
    if shown is None:
        return chosen.withColumn(SHOWN, F.array().cast("array<int>")), of_learners
    since = (F.col(c.IMPRESSION_TS) >= instant(when)) & (F.col(c.IMPRESSION_TS) < instant(log.end))
    rows = shown.where(since).join(log.vocabulary, on=c.ITEM_ID, how="inner")
    by_user = rows.groupBy(c.USER_ID).agg(F.collect_set(F.col(c.ITEM_INDEX).cast("int")).alias(SHOWN))
    return chosen.join(by_user, on=c.USER_ID, how="left"), of_learners


def past_publications(job: Job, tasks: Iterable[str], when: datetime) -> dict[str, Publication]:
    """By task, the newest publication that knew nothing from the instant on and was at most a week old then.

    A task without one is left out; said where there was one, but its vectors were removed since.
    """
    found: dict[str, Publication] = {}
    if not job.warehouse.exists(PUBLISHED_MODELS):
        return found
    for task in tasks:
        try:
            history = publication_history(job.root, task, job.pin(PUBLISHED_MODELS))
        except CheckpointError:  # never published
            continue
        before = [was for was in reversed(history) if when - _STALE <= was.as_of <= when]
        readable = next((was for was in before if _can_be_read(job, was)), None)
        if readable:
            found[task] = readable
        elif before:
            job.say(f"{task}: the vectors that were published before {when:%Y-%m-%d} cannot be read any more")
    return found


def _can_be_read(job: Job, was: Publication) -> bool:
    with suppress(HistoryGoneError):
        return bool(readable_publications(job.root, [was]))
    return False


def shipped_with_past_models(
    job: Job, known: PointInTime, log: Log, when: datetime
) -> tuple[Shipped, DataFrame | None, str | None]:
    """As ``shipped_with_models``, with what was published at the instant; and the universal checkpoint of then."""
    publications = past_publications(job, log.bits, when)
    if not publications:
        job.say(
            "no published vectors of the week before then: candidates and features are without PRECISE's "
            "(recommendations.past_model: train makes some on a first night)"
        )
        return shipped_without_models(job, known, log), None, None
    indexes, vectors = {}, None
    for task, was in publications.items():
        job.say(f"{task}: scores of {was.model_version}, published as of {was.as_of:%Y-%m-%d %H:%M}")
        indexes[task] = (_ship_past_index(job, was, log), was.model_version)
        of_task = _vectors_then(job, was, USER_EMBEDDINGS).where(F.col(c.TASK) == task)
        of_task = of_task.select(c.USER_ID, c.TASK, c.EMBEDDING)
        vectors = of_task if vectors is None else vectors.unionByName(of_task)
    sent = Shipped(ship_known(job.spark, known), indexes, log.bits, log.config, job.settings.recall, of_past=True)
    universal = publications.get(ALL_TASK)
    return sent, vectors, universal.model_version if universal else None


def _vectors_then(job: Job, was: Publication, table: Table) -> DataFrame:
    version = job.pin_at(table, was.first[table.name])
    return job.warehouse.read(job.spark, table, version).where(F.col(c.MODEL_VERSION) == was.model_version)


def _ship_past_index(job: Job, was: Publication, log: Log) -> str:
    """The index of then, made again from the vectors of then: its folder may be gone."""
    rows = with_new_columns(_vectors_then(job, was, ITEM_EMBEDDINGS), ITEM_EMBEDDINGS).drop(c.ITEM_INDEX)
    rows = rows.join(log.vocabulary.select(c.ITEM_ID, c.ITEM_INDEX), on=c.ITEM_ID, how="inner")
    table = rows.select(c.ITEM_ID, c.ITEM_INDEX, c.EMBEDDING, c.QUERY_EMBEDDING).orderBy(c.ITEM_INDEX).toArrow()
    table = table.combine_chunks()
    lookups = table[c.QUERY_EMBEDDING]
    index = build_index(
        table[c.ITEM_ID].to_pylist(),
        table[c.ITEM_INDEX].to_numpy(),
        fixed_lists(table[c.EMBEDDING]).astype(np.float32),
        model_version=was.model_version,
        config=job.settings.index,
        seed=job.settings.seed,
        seed_queries_ND=None if lookups.null_count else fixed_lists(lookups).astype(np.float32),
    )
    with tempfile.TemporaryDirectory(prefix="precise-index-") as scratch:
        folder = Path(scratch) / f"{was.model_version}-then"
        index.save(folder)
        return ship(job.spark, folder)


def universal_vectors_then(job: Job, rows: pa.Table) -> tuple[UniversalVectors | None, str | None]:
    """The universal vectors that the rows of `candidate_features` were scored with, and their space.

    None where there were none, and where tonight's checkpoint is not of their space: a model that reads vectors of one
    space can make nothing of those of another.
    """
    versions = pc.drop_null(rows[c.MODEL_VERSION]).unique().to_pylist()
    was = past_publications(job, [ALL_TASK], rows[c.AS_OF][0].as_py()).get(ALL_TASK) if versions else None
    if was is None or was.model_version not in versions:
        return None, None
    tonight = published_space(job)
    if was.space != tonight:
        job.say(
            f"vectors are not read, only scores: those of then are of the space of {was.space}, tonight's of {tonight} "
            "(universal.start: continue and alignment keep the space)"
        )
        return None, None
    users = _vectors_then(job, was, USER_EMBEDDINGS).where(F.col(c.TASK) == ALL_TASK)
    found = []
    for frame, key in ((users, c.USER_ID), (_vectors_then(job, was, ITEM_EMBEDDINGS), c.ITEM_ID)):
        wanted = job.spark.createDataFrame(pa.table({key: rows[key].unique()}))
        table = frame.join(wanted, on=key, how="left_semi").select(key, c.EMBEDDING).toArrow().combine_chunks()
        found += [table[key].combine_chunks(), fixed_lists(table[c.EMBEDDING]).astype(np.float32)]
    return UniversalVectors(*found), was.space


def published_space(job: Job) -> str | None:
    """Vector space of the universal checkpoint that is published; None where none is."""
    row = published_now(job.root).get(ALL_TASK)
    return vector_space(job.root, row[c.MODEL_VERSION]) if row else None


def require_space(job: Job, ranker: PublishedRanker | None) -> None:
    """CheckpointError where an order in use reads vectors of another space than the published ones."""
    if ranker is not None and not is_of_space(job, ranker):
        raise CheckpointError(
            f"{ranker.ranker_version} reads vectors of the space of {ranker.about.get('space')}, published are those "
            f"of {published_space(job)}; run jobs/train_list_ranker.py first"
        )


def is_later(job: Job, ranker: PublishedRanker) -> bool:
    """Whether it has learned from events that tonight does not know."""
    return str(ranker.about.get("as_of", "")) > f"{job.settings.as_of:%Y-%m-%dT%H:%M:%SZ}"


def require_past(job: Job, ranker: PublishedRanker | None) -> None:
    """CheckpointError where the orders in use have learned from events after `as_of`."""
    if ranker is not None and is_later(job, ranker):
        raise CheckpointError(
            f"{ranker.ranker_version} has learned from events up to {ranker.about['as_of']}, as_of is "
            f"{job.settings.as_of:%Y-%m-%d %H:%M}; run jobs/build_candidate_features.py and jobs/train_list_ranker.py"
        )


def is_of_space(job: Job, ranker: PublishedRanker) -> bool:
    """Whether every order in use can read the published vectors, where it reads any."""
    return not ranker.reads_vectors or ranker.about.get("space") == published_space(job)


def shipped_without_models(job: Job, known: PointInTime, log: Log) -> Shipped:
    """For an instant for which no vectors are at hand."""
    return Shipped(ship_known(job.spark, known), {}, log.bits, log.config, job.settings.recall)


def shipped_with_models(
    job: Job, known: PointInTime, log: Log, ranker: PublishedRanker | None
) -> tuple[Shipped, DataFrame | None]:
    """With the published indexes, and the users' published vectors of every task that has any.

    Where nothing is published yet the lists are made without a model, and it is said. So it is where the orders in use
    were chosen without one: its candidates would push out others, and nobody has seen how good they are.
    """
    if not job.warehouse.exists(PUBLISHED_MODELS):
        job.say("no model is published: lists are made without one")
        return shipped_without_models(job, known, log), None
    job.pin(PUBLISHED_MODELS)
    if ranker is not None and ranker.is_without_precise:
        job.say(
            f"the orders of {ranker.ranker_version} were chosen on lists without PRECISE's candidates and scores, "
            "since none were published at the instant they are of: tonight's are without them, too"
        )
        return shipped_without_models(job, known, log), None
    indexes = {
        task: (ship(job.spark, published_index(job, task)), published_checkpoint(job, task).model_version)
        for task in published_tasks(job)
        if task in log.bits
    }
    frames = [published_vectors(job, task, USER_EMBEDDINGS).select(c.USER_ID, c.TASK, c.EMBEDDING) for task in indexes]
    vectors = None
    for frame in frames:
        vectors = frame if vectors is None else vectors.unionByName(frame)
    return Shipped(ship_known(job.spark, known), indexes, log.bits, log.config, job.settings.recall), vectors


def catalog_of(log: Log) -> Catalog:
    return read_catalog(log.items, log.vocabulary)


def stored_neighbours(job: Job, items: int) -> dict[str, sparse.csr_matrix]:
    """`item_neighbours` by source, float32 [N, N]; of which sources there are none is said.

    Raises:
        DataError: They are of a later night.
    """
    names = [c.SOURCE, c.ITEM_INDEX, c.NEIGHBOUR_INDEX, c.SCORE, c.AS_OF]
    rows = job.warehouse.read_arrow(ITEM_NEIGHBOURS, job.pin(ITEM_NEIGHBOURS), names)
    if rows.num_rows and rows[c.AS_OF][0].as_py() > job.settings.as_of:
        raise DataError(
            f"item_neighbours is of {rows[c.AS_OF][0].as_py():%Y-%m-%d %H:%M}, as_of is "
            f"{job.settings.as_of:%Y-%m-%d %H:%M}; run jobs/build_neighbours.py first"
        )
    found = {}
    for source in sorted(set(rows[c.SOURCE].unique().to_pylist())):
        mine = rows.filter(pc.equal(rows[c.SOURCE], source))
        places = (mine[c.ITEM_INDEX].to_numpy(), mine[c.NEIGHBOUR_INDEX].to_numpy())
        matrix = sparse.csr_matrix((mine[c.SCORE].to_numpy(), places), shape=(items, items))
        matrix.sort_indices()
        found[source] = matrix
    config = job.settings.recommendations
    if missing := [source for source in ITEM_TO_ITEM if config.k_of(source) and source not in found]:
        job.say(
            f"item_neighbours has none of {missing}: nothing was found, or they were switched on since; then run "
            f"jobs/{ITEM_NEIGHBOURS.written_by}.py"
        )
    return found


def users_without_history(job: Job, log: Log, histories: DataFrame) -> DataFrame:
    """Ids of `ANYBODY`, and of users who were shown something but never did anything."""
    users = job.spark.createDataFrame([(c.ANYBODY,)], f"{c.USER_ID} string")
    shown = job.read_optional(IMPRESSIONS)
    if shown is None:
        return users
    known_users = shown.where(F.col(c.IMPRESSION_TS) < instant(log.end)).select(c.USER_ID).distinct()
    return users.unionByName(known_users.join(histories, on=c.USER_ID, how="left_anti"))


def change_facts(job: Job, new: DataFrame, expected: DataFrame) -> dict[str, dict[str, float]]:
    """Figures that `gates.lists` has limits for, by task; also metrics of the run.

    Args:
        new: Rows of `recommendations`, not written yet: the table still has the published ones.
        expected: Ids of the users who should get lists, and `ANYBODY`.
    """
    config, table = job.settings.recommendations, RECOMMENDATIONS
    facts = {ALL_TASK: served_share(new, expected)}
    if job.warehouse.exists(table):  # not pinned: what a run replaces is none of its inputs
        old = job.warehouse.read(job.spark, table, job.warehouse.version(table))
        tasks, sample = (ALL_TASK, *job.settings.tasks), job.settings.gates.lists.sample
        for task, figures in list_changes(old, new, tasks, list(config.lists), config.k, sample).items():
            facts[task] = facts.get(task, {}) | figures
    for task, figures in facts.items():
        job.metrics |= {f"lists/{task}/{name}": value for name, value in figures.items()}
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in figures.items())
        job.say(f"{task}: {shown or 'nothing to compare with'}")
    return facts


def balance_users(job: Job, table: Table, users: DataFrame) -> None:
    """Account for all who should be in what was written: those who are, and those for whom nothing was found."""
    written = job.read_written(table).select(c.USER_ID).distinct()
    without = users.join(written, on=c.USER_ID, how="left_anti")
    job.balance("users", rows_in=users.count(), rows_out=written.count(), rows_rejected=without.count())


def ranker_folder(job: Job) -> Place:
    return below(job.root, artefacts.LIST_RANKERS)


def current_ranker(job: Job) -> PublishedRanker | None:
    """The ranking model of lists in use; None where nothing has been learned yet.

    Raises:
        CheckpointError: It cannot be opened; the message says what is wrong with it and what to run.
    """
    version = artefacts.rankers_in_use(job.root, artefacts.LIST_RANKERS).get(ALL_LISTS)
    return PublishedRanker.open(below(ranker_folder(job), version)) if version else None


def yesterdays_ranker(job: Job) -> PublishedRanker | None:
    """``current_ranker`` as a rival of what is learned; None, which is said, where it cannot be opened."""
    try:
        return current_ranker(job)
    except CheckpointError as error:
        job.say(f"warning: yesterday's order is left out of the comparison: {error}")
        return None


def say_unlearned(job: Job, ranker: PublishedRanker | None, log: Log) -> None:
    """Of what no order was chosen, and what is in use instead."""
    if ranker is None:
        job.say(f"nothing has been learned yet: {UNLEARNED_IN_USE}")
        return
    for task in log.bits:
        if task not in ranker.chosen:
            job.say(f"{task}: nothing of it was taken in the period that was learned from: {UNLEARNED_IN_USE}")
        elif added := [name for name in log.config.lists if name not in ranker.chosen[task]]:
            job.say(f"{task}, lists {added}: added since {ranker.ranker_version} was trained: {UNLEARNED_IN_USE}")
