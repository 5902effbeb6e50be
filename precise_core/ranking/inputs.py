"""From ranking features to the ranking model's tensors: names, statistics and sizes that training fixes.

Shapes: I impressions, F sparse features, G dense features, D width of a PRECISE vector.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from precise_core.errors import DataError
from precise_core.ranking.config import DCNConfig
from precise_core.ranking.data import RankingData
from precise_core.ranking.dcn import UNKNOWN_ROW, hash_feature, look_up_feature

_LARGEST_DEVIATION = 8.0  # dense values are clipped at this many standard deviations


@dataclass(frozen=True)
class RankingInputs:
    """How impressions are read; kept in the checkpoint so that scoring reads as training did.

    Attributes:
        sparse_names: In the order of the model's input.
        dense_statistics: (mean, standard deviation) by dense feature, from the training split.
        vector_width: D; 0 = vectors and score are not read.
        hash_buckets: Rows of the embedding table of a sparse feature that is hashed.
        vocabularies: Row by value of each sparse feature that is looked up instead.
    """

    sparse_names: tuple[str, ...]
    dense_statistics: Mapping[str, tuple[float, float]]
    score_statistics: tuple[float, float]
    vector_width: int
    hash_buckets: int
    vocabularies: Mapping[str, Mapping[str, int]]

    @classmethod
    def fit(
        cls, train: RankingData, dcn: DCNConfig, use_vectors: bool, leave_out: Collection[str] = ()
    ) -> RankingInputs:
        """Names, statistics and vocabularies of the training split; features in the order of their names."""
        _require_known("dcn.vocabulary_features", dcn.vocabulary_features, train.sparse)
        _require_known("ranker.leave_out", leave_out, {**train.sparse, **train.dense})
        return cls(
            sparse_names=tuple(name for name in sorted(train.sparse) if name not in leave_out),
            dense_statistics={
                name: _statistics(values) for name, values in sorted(train.dense.items()) if name not in leave_out
            },
            score_statistics=_statistics(train.scores_I),
            vector_width=train.vector_width if use_vectors else 0,
            hash_buckets=dcn.hash_buckets,
            vocabularies={
                name: _vocabulary(train.sparse[name], dcn.vocabulary_min_count) for name in dcn.vocabulary_features
            },
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RankingInputs:
        return cls(
            sparse_names=tuple(data["sparse_names"]),
            dense_statistics={name: (mean, std) for name, (mean, std) in sorted(data["dense_statistics"].items())},
            score_statistics=tuple(data["score_statistics"]),
            vector_width=data["vector_width"],
            hash_buckets=data["hash_buckets"],
            vocabularies=data["vocabularies"],
        )

    @property
    def sparse_rows(self) -> list[int]:
        """Rows of the embedding table of each sparse feature."""
        own = {name: len(rows) + UNKNOWN_ROW + 1 for name, rows in self.vocabularies.items()}
        return [own.get(name, self.hash_buckets) for name in self.sparse_names]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def tensors(self, data: RankingData) -> tuple[Tensor, ...]:
        """The five inputs of ``DCN.forward``."""
        self._require_features(data)
        # A batch in which no row has a value of a categorical feature lacks its name: all values are missing.
        none = np.full(len(data), "", dtype=object)
        sparse = [self._rows(name, data.sparse.get(name, none)) for name in self.sparse_names]
        dense = [_standardise(data.dense[name], statistics) for name, statistics in self.dense_statistics.items()]
        vectors = [_widen(half, self.vector_width) for half in (data.user_vectors_ID, data.item_vectors_ID)]
        score = _standardise(data.scores_I, self.score_statistics)
        return (
            torch.from_numpy(_columns(sparse, len(data), np.int64)),
            torch.from_numpy(_columns(dense, len(data), np.float32)),
            torch.from_numpy(np.concatenate(vectors, axis=1)),
            torch.from_numpy(_columns([data.has_user_I, data.has_item_I], len(data), np.float32)),
            torch.from_numpy(_columns([score, ~np.isnan(data.scores_I)], len(data), np.float32)),
        )

    def _rows(self, name: str, values: np.ndarray) -> np.ndarray:
        if name in self.vocabularies:
            return look_up_feature(values, self.vocabularies[name])
        return hash_feature(name, values, self.hash_buckets)

    def _require_features(self, data: RankingData) -> None:
        missing = sorted(set(self.dense_statistics) - set(data.dense))
        if missing:
            raise DataError(
                f"ranking data: the model reads dense features {missing}, the rows have only {sorted(data.dense)}"
            )
        if self.vector_width and data.vector_width not in (0, self.vector_width):
            raise DataError(f"ranking data: vectors are {data.vector_width} wide, the model reads {self.vector_width}")


def _require_known(key: str, names: Collection[str], features: Collection[str]) -> None:
    absent = sorted(set(names) - set(features))
    if absent:
        raise DataError(f"{key}: no training row has {absent}; the rows have {sorted(features)}")


def _vocabulary(values: np.ndarray, min_count: int) -> dict[str, int]:
    """Row by value, in the order of the values; the first two rows are those of a missing and of an unknown value."""
    distinct, counts = np.unique(values[values != ""].astype(str), return_counts=True)
    kept = distinct[counts >= min_count]
    return {str(value): row for row, value in enumerate(kept, start=UNKNOWN_ROW + 1)}


def _statistics(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the known values; (0, 1) where none is, deviation 1 for a constant."""
    known = values[~np.isnan(values)].astype(np.float64)
    if len(known) == 0:
        return 0.0, 1.0
    deviation = float(known.std())
    return float(known.mean()), deviation if deviation > 0 else 1.0


def _standardise(values: np.ndarray, statistics: tuple[float, float]) -> np.ndarray:
    mean, deviation = statistics
    standardised = (values.astype(np.float64) - mean) / deviation
    return np.nan_to_num(np.clip(standardised, -_LARGEST_DEVIATION, _LARGEST_DEVIATION), nan=0.0)


def _columns(columns: list[np.ndarray], rows: int, kind: Any) -> np.ndarray:
    return np.stack(columns, axis=1).astype(kind) if columns else np.empty((rows, 0), kind)


def _widen(vectors_ID: np.ndarray, width: int) -> np.ndarray:
    """Vectors of ``width``; zeros where no row of the data has one, nothing where the model reads none."""
    if width == 0:
        return vectors_ID[:, :0]
    return vectors_ID if vectors_ID.shape[1] else np.zeros((len(vectors_ID), width), np.float32)
