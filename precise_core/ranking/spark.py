"""The ranking model on Spark: `ranking_features` to `ranking_scores`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.ranking.data import RankingData, RankingSlice
from precise_core.ranking.train import RankerCheckpoint, score
from precise_core.vectors.shipping import ship, shipped
from schemas import columns as c

_Batches = Iterable[pa.RecordBatch]


def is_in_slice(of: RankingSlice) -> Column:
    """Condition on `ranking_features`."""
    is_in_space = F.col(c.MODEL_VERSION).isin(*of.model_versions) & (F.col(c.VECTOR_SPACE) == of.space)
    return is_in_space & (F.col(c.TASK) == of.task)


def score_impressions(spark: SparkSession, features: DataFrame, ranker: RankerCheckpoint) -> DataFrame:
    """Probabilities of impressions under one ranking model."""
    scored = features.mapInArrow(_scorer(ship(spark, ranker.folder)), f"{c.IMPRESSION_ID} string, {c.SCORE} float")
    return scored.select(c.IMPRESSION_ID, F.lit(ranker.ranker_version).alias(c.RANKER_VERSION), c.SCORE)


@lru_cache(maxsize=1)
def _open(folder: Path) -> RankerCheckpoint:
    return RankerCheckpoint.open(folder)


def _scorer(name: str) -> Callable[[_Batches], _Batches]:
    def apply(batches: _Batches) -> _Batches:
        checkpoint = _open(shipped(name))
        for batch in batches:
            if batch.num_rows:
                probabilities_I = score(checkpoint, RankingData.from_arrow(pa.Table.from_batches([batch])))
                yield pa.RecordBatch.from_arrays(
                    [batch.column(c.IMPRESSION_ID), pa.array(probabilities_I)], names=[c.IMPRESSION_ID, c.SCORE]
                )

    return apply
