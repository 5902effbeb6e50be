"""Dot products of candidate pairs on Spark."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.errors import VersionMixError
from precise_core.inference.text import fixed_lists
from schemas import TABLES
from schemas import columns as c

_USER, _ITEM = "_user_vector", "_item_vector"
_WRITERS = {table.name: table.written_by for table in TABLES}


def score_pairs(pairs: DataFrame, users: DataFrame, items: DataFrame, model_version: str, task: str) -> DataFrame:
    """(user_id, item_id) pairs to `pair_scores`; a pair without one of its vectors is left out.

    Args:
        pairs: Distinct pairs.
        users: `user_embeddings`.
        items: `item_embeddings`.
        model_version: The one checkpoint both vectors must come from.
        task: Whose user vectors.

    Raises:
        VersionMixError: A table has no vectors of this checkpoint; the message names what it has.
    """
    users, items = (
        one_version(users, model_version, "user_embeddings"),
        one_version(items, model_version, "item_embeddings"),
    )
    users = users.where(F.col(c.TASK) == task).select(c.USER_ID, F.col(c.EMBEDDING).alias(_USER), c.AS_OF)
    items = items.select(c.ITEM_ID, F.col(c.EMBEDDING).alias(_ITEM))
    joined = (
        pairs.select(c.USER_ID, c.ITEM_ID).join(users, on=c.USER_ID, how="inner").join(items, on=c.ITEM_ID, how="inner")
    )
    scored = joined.select(c.USER_ID, c.ITEM_ID, _USER, _ITEM, c.AS_OF).mapInArrow(
        _dot_products, f"{c.USER_ID} string, {c.ITEM_ID} string, {c.SCORE} float, {c.AS_OF} timestamp"
    )
    return scored.select(c.USER_ID, c.ITEM_ID, F.lit(model_version).alias(c.MODEL_VERSION), c.SCORE, c.AS_OF)


def one_version(vectors: DataFrame, model_version: str, name: str) -> DataFrame:
    """The rows of one checkpoint.

    Raises:
        VersionMixError: There are none; scoring with those of another checkpoint would be noise.
    """
    chosen = vectors.where(F.col(c.MODEL_VERSION) == model_version)
    if chosen.isEmpty():
        there = sorted(row[0] for row in vectors.select(c.MODEL_VERSION).distinct().collect())
        raise VersionMixError(f"{name} has no rows of {model_version}; it has {there}; run jobs/{_WRITERS[name]}.py")
    return chosen


def _dot_products(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
    for batch in batches:
        if not batch.num_rows:
            continue
        width = len(batch.column(_USER)[0])
        users_PD, items_PD = fixed_lists(batch.column(_USER), width), fixed_lists(batch.column(_ITEM), width)
        scores_P = np.einsum("pd,pd->p", users_PD, items_PD).astype(np.float32)
        yield pa.RecordBatch.from_arrays(
            [batch.column(c.USER_ID), batch.column(c.ITEM_ID), pa.array(scores_P), batch.column(c.AS_OF)],
            names=[c.USER_ID, c.ITEM_ID, c.SCORE, c.AS_OF],
        )
