"""Lists in a night: what the jobs read, and how frames become rows of their tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from scipy import sparse

from precise_core import artefacts
from precise_core.publication.night import published_checkpoint, published_index, published_tasks, published_vectors
from precise_core.recall.merge import numbered
from precise_core.recommendations.batches import MICROS_PER_DAY
from precise_core.recommendations.knowledge import Catalog, Log, is_sampled, read_catalog
from precise_core.recommendations.names import TEXT
from precise_core.recommendations.point_in_time import PointInTime
from precise_core.recommendations.ranker_files import PublishedRanker
from precise_core.recommendations.reasons import SEED
from precise_core.recommendations.sources import trending
from precise_core.recommendations.spark import IS_HELD_OUT, SEED_INDEX, WORDS, Shipped, ship_known
from precise_core.run.job import Job
from precise_core.tasks import events_before
from precise_core.vectors.shipping import ship
from precise_core.warehouse.instants import instant, micros
from schemas import (
    CANDIDATE_FEATURES,
    EVENTS,
    IMPRESSIONS,
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

ALL_LISTS = "lists"
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


def past_instant(job: Job, log: Log) -> datetime:
    """The beginning of the period whose events are the labels; logged, with the length and why."""
    configured, test_days = log.config.horizon_days, job.settings.evaluation.test_days
    if configured is not None:
        days, why = configured, "recommendations.horizon_days"
    else:
        first = events_before(log.events, log.end).agg(F.unix_micros(F.min(c.EVENT_TS)).alias("first")).collect()[0]
        span = (micros(log.end) - (first["first"] or micros(log.end))) / MICROS_PER_DAY
        days, why = float(test_days), "evaluation.test_days"
        if days > span / _THIRDS:
            days, why = span / _THIRDS, f"a third of the log, which has {span:.1f} days"
    when = log.end - timedelta(days=days)
    job.say(f"candidates before {when:%Y-%m-%d %H:%M}, labels from the {days:.4g} days since ({why})")
    return when


def learners(histories: DataFrame, job: Job) -> DataFrame:
    """A fixed sample of users, and which of them are held out."""
    config = job.settings.recommendations
    share = config.training_users / max(histories.count(), 1)
    held_out = is_sampled(config.ranker.validation_share, salt=f"held out {job.settings.seed}")
    return histories.where(is_sampled(share, salt="learners")).withColumn(IS_HELD_OUT, held_out)


def shipped_without_models(job: Job, known: PointInTime, log: Log) -> Shipped:
    """For an instant for which no vectors are at hand."""
    return Shipped(ship_known(job.spark, known), {}, log.bits, log.config, job.settings.recall)


def shipped_with_models(job: Job, known: PointInTime, log: Log) -> tuple[Shipped, DataFrame | None]:
    """With the published indexes, and the users' published vectors of every task that has any.

    Where nothing is published yet the lists are made without a model, and it is said.
    """
    if not job.warehouse.exists(PUBLISHED_MODELS):
        job.say("no model is published: lists are made without one")
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


def neighbour_rows(job: Job, near: Mapping[str, sparse.csr_matrix], catalog: Catalog) -> DataFrame:
    """Rows of `item_neighbours`."""
    tables = []
    for source, matrix in near.items():
        if not matrix.nnz:  # Spark takes an empty batch for the end of all batches
            continue
        seeds = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        order = np.lexsort((matrix.indices, -matrix.data, seeds))
        seeds, items = seeds[order], matrix.indices[order]
        ranks = numbered(seeds)
        columns = {
            c.SOURCE: pa.array([source] * len(order), pa.string()),
            c.ITEM_ID: catalog.item_ids_N.take(pa.array(seeds)),
            c.RANK: pa.array(ranks.astype(np.int32)),
            c.NEIGHBOUR_ID: catalog.item_ids_N.take(pa.array(items)),
            c.SCORE: pa.array(matrix.data[order].astype(np.float32)),
            c.ITEM_INDEX: pa.array(seeds.astype(np.int32)),
            c.NEIGHBOUR_INDEX: pa.array(items.astype(np.int32)),
        }
        tables.append(pa.table(columns))
    frame = job.spark.createDataFrame(pa.concat_tables(tables)) if tables else None
    if frame is None:
        return job.spark.createDataFrame([], ITEM_NEIGHBOURS.spark_schema())
    frame = frame.coalesce(job.spark.sparkContext.defaultParallelism)  # Spark makes a task of every 10,000 rows
    return frame.withColumn(c.AS_OF, instant(job.settings.as_of)).select(*ITEM_NEIGHBOURS.column_names)


def stored_neighbours(job: Job, items: int) -> dict[str, sparse.csr_matrix]:
    """`item_neighbours` by source, float32 [N, N]."""
    names = [c.SOURCE, c.ITEM_INDEX, c.NEIGHBOUR_INDEX, c.SCORE]
    rows = job.warehouse.read_arrow(ITEM_NEIGHBOURS, job.pin(ITEM_NEIGHBOURS), names)
    found = {}
    for source in sorted(set(rows[c.SOURCE].unique().to_pylist())):
        mine = rows.filter(pc.equal(rows[c.SOURCE], source))
        places = (mine[c.ITEM_INDEX].to_numpy(), mine[c.NEIGHBOUR_INDEX].to_numpy())
        matrix = sparse.csr_matrix((mine[c.SCORE].to_numpy(), places), shape=(items, items))
        matrix.sort_indices()
        found[source] = matrix
    return found


def feature_rows(rows: DataFrame, log: Log, when: datetime, model_version: str | None) -> DataFrame:
    """Rows of `candidate_features` from ``spark.training_rows``."""
    items = log.vocabulary.select(c.ITEM_INDEX, c.ITEM_ID)
    named = rows.join(items, on=c.ITEM_INDEX, how="inner")
    columns: dict[str, Column] = {c.AS_OF: instant(when), c.MODEL_VERSION: F.lit(model_version).cast("string")}
    return named.withColumns(columns).select(*CANDIDATE_FEATURES.column_names)


def recommendation_rows(listed: DataFrame, log: Log) -> DataFrame:
    """Rows of `recommendations` from ``spark.recommended``: ids and titles instead of rows of the vocabulary."""
    ids = log.vocabulary.select(c.ITEM_INDEX, c.ITEM_ID)
    titles = ids.join(log.items.select(c.ITEM_ID, c.TITLE), on=c.ITEM_ID, how="left")
    seeds = titles.select(
        F.col(c.ITEM_INDEX).alias(SEED_INDEX),
        F.col(c.ITEM_ID).alias(c.SEED_ITEM_ID),
        F.when(F.length(c.TITLE) > 0, F.col(c.TITLE)).otherwise(F.col(c.ITEM_ID)).alias(c.TITLE),
    )
    named = listed.join(ids, on=c.ITEM_INDEX, how="inner").join(seeds, on=SEED_INDEX, how="left")
    reason = F.replace(WORDS, F.lit(SEED), F.coalesce(F.col(c.TITLE), F.lit("")))
    columns: dict[str, Column] = {c.REASON: reason, c.AS_OF: instant(log.end)}
    return named.withColumns(columns).select(*RECOMMENDATIONS.column_names)


def without_history(job: Job, known: PointInTime, log: Log, histories: DataFrame) -> DataFrame:
    """What is popular for `ANYBODY`, and for users who were shown something but never did anything.

    The lists of repeats have nothing for them.
    """
    rows = []
    for task, facts in known.facts.items():
        popular = trending(facts, log.config.k)["popular_28d"]
        for name, policy in log.config.lists.items():
            if policy.repeat != "only":
                for rank, item in enumerate(popular, start=1):
                    score = float(facts.recent[28][item])
                    words = f"popular: taken {score:,.0f} times in 28 days"
                    rows.append((task, name, rank, score, int(item), words))
    schema = f"{c.TASK} string, {c.LIST} string, {c.RANK} int, {c.SCORE} float, {c.ITEM_INDEX} int, {WORDS} string"
    popular_rows = job.spark.createDataFrame(rows, schema)
    users = job.spark.createDataFrame([(c.ANYBODY,)], f"{c.USER_ID} string")
    shown = job.read_optional(IMPRESSIONS)
    if shown is not None:
        known_users = shown.where(F.col(c.IMPRESSION_TS) < instant(log.end)).select(c.USER_ID).distinct()
        users = users.unionByName(known_users.join(histories, on=c.USER_ID, how="left_anti"))
    columns: dict[str, Column] = {
        c.PROBABILITY: F.lit(None).cast("float"),
        c.SOURCES: F.array(F.lit("popular")),
        c.MODEL_VERSION: F.lit("popular_28d"),
        SEED_INDEX: F.lit(None).cast("int"),
    }
    return users.crossJoin(F.broadcast(popular_rows)).withColumns(columns)


def balance_users(job: Job, table: Table, users: DataFrame) -> None:
    """Account for all who should be in what was written: those who are, and those for whom nothing was found."""
    written = job.read_written(table).select(c.USER_ID).distinct()
    without = users.join(written, on=c.USER_ID, how="left_anti")
    job.balance("users", rows_in=users.count(), rows_out=written.count(), rows_rejected=without.count())


def ranker_folder(job: Job) -> Path:
    return job.folder / artefacts.LIST_RANKERS


def current_ranker(job: Job) -> PublishedRanker | None:
    """The ranking model of lists in use; None where nothing has been learned yet."""
    version = artefacts.rankers_in_use(job.folder, artefacts.LIST_RANKERS).get(ALL_LISTS)
    return PublishedRanker.open(ranker_folder(job) / version) if version else None
