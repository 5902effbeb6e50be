"""The same vectors by Spark's own `predict_batch_udf`: an alternative for those who want a column, not a frame.

>>> vectors = item_vectors(spark, checkpoint)                                     # doctest: +SKIP
>>> item_tokens.select("item_id", vectors("item_index", "token_ids", "token_count"))  # doctest: +SKIP

It slices each Arrow batch and never joins two, so that batches are smaller, and it takes columns of one shape only:
sequences come left-padded. `precise_core.vectors.spark` has neither limit and is what the jobs use.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, FloatType

from precise_core.errors import ModelError
from precise_core.training.checkpoint import Checkpoint
from precise_core.vectors.encoding import encode_items, encode_users
from precise_core.vectors.shipping import ship
from precise_core.vectors.spark import newest, shipped_catalog, worker_model
from schemas import columns as c

_VECTOR = ArrayType(FloatType())
VectorUdf = Callable[..., Column]


def item_vectors(spark: SparkSession, checkpoint: Path, batch_size: int = 4096) -> VectorUdf:
    """A function of the columns item_index, token_ids and token_count; not for contextual checkpoints."""
    width = Checkpoint.open(checkpoint).manifest.max_token_length
    name = ship(spark, checkpoint)

    def make_predictor() -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
        model = worker_model(name)
        return lambda items_N, token_ids_NT, counts_N: encode_items(model, items_N, token_ids_NT, counts_N)

    return predict_batch_udf(
        make_predictor,  # type: ignore[arg-type]  # declared for one argument, called with one per column
        return_type=_VECTOR,
        batch_size=batch_size,
        input_tensor_shapes=[[], [width], []],
    )


def user_vectors(
    spark: SparkSession, checkpoint: Path, catalog_file: Path, max_length: int, batch_size: int = 256
) -> VectorUdf:
    """A function of ``left_padded(max_length)``; not for models that read times (ModelError)."""
    encoder = Checkpoint.open(checkpoint).manifest.model.encoder  # missing or changed: fails before any Spark job
    if encoder.uses_times:
        raise ModelError(f"encoder {encoder.kind} reads when events happened: use vectors.spark.embed_users")
    name, catalog_name = ship(spark, checkpoint), ship(spark, catalog_file)

    def make_predictor() -> Callable[[np.ndarray], np.ndarray]:
        model, catalog = worker_model(name), shipped_catalog(catalog_name)
        return lambda items_BL: encode_users(model, catalog, [items[items > 0] for items in items_BL], max_length)

    return predict_batch_udf(
        make_predictor, return_type=_VECTOR, batch_size=batch_size, input_tensor_shapes=[[max_length]]
    )


def left_padded(max_length: int) -> Column:
    """The newest items of `item_indices` behind as many zeros as are missing."""
    missing = F.lit(max_length) - F.least(F.size(c.ITEM_INDICES), F.lit(max_length))
    return F.concat(F.array_repeat(F.lit(0), missing), newest(c.ITEM_INDICES, max_length))
