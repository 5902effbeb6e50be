"""Scores of candidate pairs on Spark, by the plan that fits.

Pairs are grouped by user, so that a user's vector is sent once and not with every pair. Under `broadcast` every node
gets all item vectors once, as one memory-mapped file; under `shuffle` groups and item vectors are joined by bucket of
items, and a bucket with very many pairs is split by user.

G groups (a user's pairs, or a part of them), P pairs, N items, D width.
"""

from __future__ import annotations

import atexit
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.errors import DataError, ModelError
from precise_core.index.engine import dot_products
from precise_core.pair_scores.config import ScoringConfig
from precise_core.text.config import TextConfig
from precise_core.text.tokens import tokenize_items
from precise_core.vectors.shipping import ship, shipped
from precise_core.vectors.spark import embed_items
from precise_core.warehouse.arrow_lists import fixed_lists, list_lengths
from schemas import PAIR_SCORES
from schemas import columns as c

_USER, _ITEM, _ITEMS = "_user_vector", "_item_vector", "_items"
_BUCKET, _SALT, _CHUNK = "_bucket", "_salt", "_chunk"

_BUCKET_MB = 64  # of item vectors that one task of the shuffle holds
_PAIRS_PER_GROUP = 8192  # a user with more becomes several groups, so that no list grows without bound
_SMALLEST_NORM = 1e-12
_SCORED = [c.USER_ID, c.ITEM_ID, c.SCORE, c.AS_OF]  # of `pair_scores`
_Batches = Iterable[pa.RecordBatch]


@dataclass(frozen=True)
class PairInputs:
    """The pairs to score and the vectors of one task's published checkpoint.

    Attributes:
        pairs: Distinct (user_id, item_id), cached.
        users: (user_id, embedding, as_of).
        items: (item_id, embedding), with vectors made from texts where that is configured.
    """

    task: str
    model_version: str
    width: int
    pairs: DataFrame
    number: int
    users: DataFrame
    items: DataFrame


@dataclass(frozen=True)
class ScoringPlan:
    """How vectors and pairs are joined, and why; ``str`` is the line in the log."""

    kind: str
    megabytes: float
    limit_mb: int
    buckets: int = 0
    pairs_per_task: int = 2_000_000  # a bucket with more is split by user

    def __str__(self) -> str:
        size = f"item vectors are {self.megabytes:,.1f} MB, the limit for one node is {self.limit_mb:,} MB"
        how = "sent whole to every node" if self.kind == "broadcast" else f"shuffled in {self.buckets:,} buckets"
        return f"plan {self.kind}: {size}; {how}"


def choose_plan(config: ScoringConfig, items: int, width: int, parallelism: int) -> ScoringPlan:
    """The plan of the configuration, or the one that the size of the item vectors requires."""
    megabytes = items * width * 4 / 1e6
    is_small = config.plan == "broadcast" or (config.plan == "auto" and megabytes <= config.broadcast_mb)
    if is_small:
        return ScoringPlan("broadcast", megabytes, config.broadcast_mb)
    buckets = max(parallelism, math.ceil(megabytes / _BUCKET_MB))
    return ScoringPlan("shuffle", megabytes, config.broadcast_mb, buckets)


def distinct_pairs(sources: Sequence[DataFrame], model_version: str) -> DataFrame:
    """Distinct pairs: this checkpoint's candidates, but not the fallback's, and every pair of the other lists."""
    is_scored = (F.col(c.MODEL_VERSION) == model_version) & (F.col(c.SOURCE) != c.POPULAR)
    own = [frame.where(is_scored) if c.SOURCE in frame.columns else frame for frame in sources]
    return reduce(DataFrame.unionByName, [frame.select(c.USER_ID, c.ITEM_ID) for frame in own]).distinct()


def vectors_from_text(
    spark: SparkSession, catalog: DataFrame, pairs: DataFrame, items: DataFrame, checkpoint: Path, config: TextConfig
) -> DataFrame:
    """(item_id, embedding) of items of ``catalog`` in the pairs that are not among ``items``, as of a cold item.

    Their vectors are made from their text and the unknown row; an item without text has none.
    """
    unknown = pairs.select(c.ITEM_ID).distinct().join(items, on=c.ITEM_ID, how="left_anti")
    new = catalog.where(f"NOT {c.IS_DELETED}").join(unknown, on=c.ITEM_ID, how="left_semi")
    indexed = new.select(c.ITEM_ID, F.lit(c.UNKNOWN_INDEX).alias(c.ITEM_INDEX))
    tokens = tokenize_items(new, indexed, config).where(F.col(c.TOKEN_COUNT) > 0)
    return embed_items(spark, tokens, checkpoint, datetime.now(UTC)).select(c.ITEM_ID, c.EMBEDDING)


def count_missing_vectors(inputs: PairInputs) -> dict[str, int]:
    """Pairs without a user vector, and further ones without an item vector; DataError where no pair has both.

    Counted apart from the scoring, so that the row balance finds a lost pair.
    """
    has_user, has_item = F.lit(True).alias("has_user"), F.lit(True).alias("has_item")
    flagged = inputs.pairs.join(inputs.users.select(c.USER_ID, has_user), on=c.USER_ID, how="left")
    flagged = flagged.join(inputs.items.select(c.ITEM_ID, has_item), on=c.ITEM_ID, how="left")
    no_user, no_item = F.col("has_user").isNull(), F.col("has_item").isNull()
    users, items = flagged.agg(F.count_if(no_user), F.count_if(~no_user & no_item)).collect()[0]
    if users + items == inputs.number:
        first = str([tuple(row) for row in inputs.pairs.orderBy(c.USER_ID, c.ITEM_ID).limit(3).collect()])
        raise DataError(
            f"{inputs.task}: none of {inputs.number:,} pairs has both vectors of {inputs.model_version} "
            f"({users:,} have no user vector, {items:,} more no item vector), e.g. {first}; the previous scores stay; "
            "are these the ids of the tables?",
            private=first,
        )
    return {"user": users, "item": items}


def score_pairs(
    spark: SparkSession,
    pairs: DataFrame,
    users: DataFrame,
    items: DataFrame,
    plan: ScoringPlan,
    similarity: str = "dot",
) -> DataFrame:
    """(user_id, item_id) pairs to (user_id, item_id, score, as_of); a pair without one of its vectors is left out.

    A score is the same to the last bit under every plan and in every batch.

    Args:
        pairs: Distinct; read more than once, so cache them.
        users: (user_id, embedding, as_of), one checkpoint and one task.
        items: (item_id, embedding) of the same checkpoint.
    """
    users = users.select(c.USER_ID, F.col(c.EMBEDDING).alias(_USER), c.AS_OF)
    pairs = pairs.select(c.USER_ID, c.ITEM_ID).withColumn(_CHUNK, _chunk(pairs))
    if plan.kind == "broadcast":
        return _score_broadcast(spark, pairs, users, items, similarity)
    return _score_shuffled(spark, pairs, users, items, plan, similarity)


def gathered_scores(users_GD: np.ndarray, counts_G: np.ndarray, items_ND: np.ndarray, rows_P: np.ndarray) -> np.ndarray:
    """Dot products of each user with the user's items, float32 [P].

    ``rows_P`` are rows of ``items_ND`` (which may be memory-mapped), the ``counts_G`` pairs of a group one after the
    other.
    """
    width = items_ND.shape[1]
    if users_GD.shape[1] != width:
        raise ModelError(f"user vectors are {users_GD.shape[1]} wide, item vectors {width}: they are of two models")
    scores_P = np.empty(len(rows_P), np.float32)
    rows_P = np.ascontiguousarray(rows_P, np.int64)
    users_GD, ends_G = np.ascontiguousarray(users_GD), np.cumsum(counts_G)
    for group, (start, end) in enumerate(zip(ends_G - counts_G, ends_G, strict=True)):
        dot_products(users_GD[group : group + 1], items_ND, rows_P[None, start:end], scores_P[None, start:end])
    return scores_P


def unit(vectors_ND: np.ndarray) -> np.ndarray:
    """Vectors of length 1; one of length 0 stays 0."""
    norms_N = np.sqrt(np.einsum("nd,nd->n", vectors_ND, vectors_ND))
    return vectors_ND / np.maximum(norms_N, _SMALLEST_NORM)[:, None]


def _chunk(pairs: DataFrame) -> Column:
    """Splits the pairs of a user with very many; 0 for all users where there is none."""
    largest = pairs.groupBy(c.USER_ID).count().agg(F.max("count")).collect()[0][0] or 0
    return _hashed(c.ITEM_ID, max(1, math.ceil(largest / _PAIRS_PER_GROUP)))


def _hashed(column: str, parts: int | Column) -> Column:
    return F.pmod(F.xxhash64(column), F.lit(parts) if isinstance(parts, int) else parts).cast("int")


def _score_broadcast(
    spark: SparkSession, pairs: DataFrame, users: DataFrame, items: DataFrame, similarity: str
) -> DataFrame:
    table = items.select(c.ITEM_ID, c.EMBEDDING).toArrow().combine_chunks().sort_by(c.ITEM_ID)
    row_ids = pa.array(np.arange(table.num_rows, dtype=np.int32))
    rows = spark.createDataFrame(pa.table({c.ITEM_ID: table[c.ITEM_ID], _ITEM: row_ids}))
    grouped = (
        pairs.join(F.broadcast(rows), on=c.ITEM_ID, how="inner")
        .groupBy(c.USER_ID, _CHUNK)
        .agg(F.collect_list(_ITEM).alias(_ITEMS))
        .join(users, on=c.USER_ID, how="inner")
    )
    name = _ship_vectors(spark, table, similarity)
    return grouped.select(c.USER_ID, _USER, _ITEMS, c.AS_OF).mapInArrow(
        _by_file(name, similarity), PAIR_SCORES.ddl(*_SCORED)
    )


def _ship_vectors(spark: SparkSession, table: pa.Table, similarity: str) -> str:
    vectors_ND = _matrix(table[c.EMBEDDING])
    folder = Path(tempfile.mkdtemp(prefix="precise-vectors-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    np.save(folder / "vectors.npy", unit(vectors_ND) if similarity == "cosine" else vectors_ND)
    pq.write_table(table.select([c.ITEM_ID]), folder / "items.parquet")
    name = ship(spark, folder)
    shutil.rmtree(folder)
    return name


@lru_cache(maxsize=1)
def _open(folder: Path) -> tuple[pa.Array, np.ndarray]:
    """Item ids and vectors; the workers of a node share the vectors' pages."""
    ids = pq.read_table(folder / "items.parquet")[c.ITEM_ID].combine_chunks()
    return ids, np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)


def _by_file(name: str, similarity: str) -> Callable[[_Batches], _Batches]:
    def apply(batches: _Batches) -> _Batches:
        ids, items_ND = _open(shipped(name))
        for batch in batches:
            if batch.num_rows:
                rows_P = batch.column(_ITEMS).flatten().to_numpy(zero_copy_only=False)
                yield _scored(batch, items_ND, rows_P, ids.take(pa.array(rows_P)), similarity)

    return apply


def _score_shuffled(
    spark: SparkSession, pairs: DataFrame, users: DataFrame, items: DataFrame, plan: ScoringPlan, similarity: str
) -> DataFrame:
    bucket = _hashed(c.ITEM_ID, plan.buckets).alias(_BUCKET)
    counted = pairs.select(bucket).groupBy(_BUCKET).count().collect()
    salts = [(row[_BUCKET], math.ceil(row["count"] / plan.pairs_per_task)) for row in counted]
    splits = F.broadcast(spark.createDataFrame(salts, f"{_BUCKET} int, {_SALT} int"))
    grouped = (
        pairs.select("*", bucket)
        .groupBy(c.USER_ID, _BUCKET, _CHUNK)
        .agg(F.collect_list(c.ITEM_ID).alias(_ITEMS))
        .join(users, on=c.USER_ID, how="inner")
        .join(splits, on=_BUCKET, how="inner")
        .withColumn(_SALT, _hashed(c.USER_ID, F.col(_SALT)))
    )
    copies = F.explode(F.sequence(F.lit(0), F.col(_SALT) - 1)).alias(_SALT)
    vectors = items.select(c.ITEM_ID, c.EMBEDDING, bucket).join(splits, on=_BUCKET, how="inner")
    vectors = vectors.select(_BUCKET, copies, c.ITEM_ID, c.EMBEDDING)
    both = grouped.groupBy(_BUCKET, _SALT).cogroup(vectors.groupBy(_BUCKET, _SALT))
    return both.applyInArrow(_by_bucket(similarity), PAIR_SCORES.ddl(*_SCORED))


def _by_bucket(similarity: str) -> Callable[[pa.Table, pa.Table], pa.Table]:
    def score(groups: pa.Table, vectors: pa.Table) -> pa.Table:
        if not groups.num_rows or not vectors.num_rows:
            return pa.schema([PAIR_SCORES.arrow_schema().field(name) for name in _SCORED]).empty_table()
        items_ND = _matrix(vectors[c.EMBEDDING])
        items_ND = unit(items_ND) if similarity == "cosine" else items_ND
        ids = vectors[c.ITEM_ID].combine_chunks()
        return pa.Table.from_batches(
            [_scored_ids(batch, items_ND, ids, similarity) for batch in groups.combine_chunks().to_batches()]
        )

    return score


def _scored_ids(batch: pa.RecordBatch, items_ND: np.ndarray, ids: pa.Array, similarity: str) -> pa.RecordBatch:
    ids_P = batch.column(_ITEMS).flatten()
    rows_P = pc.index_in(ids_P, ids)
    scored = _scored(batch, items_ND, rows_P.fill_null(0).to_numpy(), ids_P, similarity)
    return scored.filter(rows_P.is_valid())


def _scored(
    batch: pa.RecordBatch, items_ND: np.ndarray, rows_P: np.ndarray, ids_P: pa.Array, similarity: str
) -> pa.RecordBatch:
    users_GD = _matrix(batch.column(_USER))
    users_GD = unit(users_GD) if similarity == "cosine" else users_GD
    counts_G = pc.list_value_length(batch.column(_ITEMS)).to_numpy()
    scores_P = gathered_scores(users_GD, counts_G, items_ND, rows_P)
    groups_P = pa.array(np.repeat(np.arange(len(counts_G)), counts_G))
    columns = [batch.column(c.USER_ID).take(groups_P), ids_P, pa.array(scores_P), batch.column(c.AS_OF).take(groups_P)]
    return pa.RecordBatch.from_arrays(columns, names=_SCORED)


def _matrix(column: pa.ChunkedArray | pa.ListArray) -> np.ndarray:
    """Vectors as float32 rows; ModelError where they are not of one width."""
    if len(widths := list_lengths(column)) > 1:
        raise ModelError(f"vectors of several widths ({widths}) meet in one join: they are of two models")
    return fixed_lists(column)
