"""Rows of the table ranking_features as arrays that the ranking model trains on and scores.

Shapes: I impressions, D width of a PRECISE vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from precise_core.errors import DataError, NothingToLearnError, SchemaError, VersionMixError
from precise_core.warehouse.arrow_lists import fixed_lists, list_lengths
from schemas import RANKING_FEATURES
from schemas import columns as c

_NOT_READ = (c.TASK, c.ITEM_ID, c.IMPRESSION_TS)
_COLUMNS = [name for name in RANKING_FEATURES.column_names if name not in _NOT_READ]


@dataclass(frozen=True)
class RankingSlice:
    """Rows of `ranking_features` that one ranking model may see together.

    Their vectors are of one task and one vector space (those of another would be noise), which several checkpoints can
    share.
    """

    task: str
    space: str
    model_versions: tuple[str, ...]


def choose_slice(rows: pa.Table, task: str, space: str | None = None) -> RankingSlice:
    """What to train and to test a task's ranking model on: the rows in ``space``, by default the newest impression's.

    ``rows`` have task, vector_space, model_version and impression_ts of `ranking_features`.
    """
    groups = rows.filter(pc.equal(rows[c.TASK], task)).group_by([c.VECTOR_SPACE, c.MODEL_VERSION])
    newest = groups.aggregate([(c.IMPRESSION_TS, "max")]).sort_by(f"{c.IMPRESSION_TS}_max").to_pylist()
    if not newest:
        raise NothingToLearnError(f"{task}: no impression lies at or after the as_of of a published model")
    space = space or newest[-1][c.VECTOR_SPACE]
    versions = tuple(row[c.MODEL_VERSION] for row in newest if row[c.VECTOR_SPACE] == space)
    if not versions:
        there = sorted({row[c.VECTOR_SPACE] for row in newest})
        raise NothingToLearnError(f"{task}: no impression has vectors of the space {space!r}, but of {there}")
    return RankingSlice(task, space, versions)


@dataclass(frozen=True)
class RankingData:
    """Impressions in the order of the input; the arrays are parallel.

    Attributes:
        labels_I: float32, 1 = taken.
        sparse: Values (text, empty = missing) by feature.
        dense: Values (float64, NaN = missing) by feature.
        user_vectors_ID: float32, zeros where missing (``has_user_I`` False); D = 0 where no row has one.
        scores_I: float32 dot products, NaN where missing.
        model_versions_I: Checkpoint of each row's vectors.
        space: The vector space of all of them.
    """

    impression_ids_I: np.ndarray
    user_ids_I: np.ndarray
    splits_I: np.ndarray
    labels_I: np.ndarray
    sparse: Mapping[str, np.ndarray]
    dense: Mapping[str, np.ndarray]
    user_vectors_ID: np.ndarray
    item_vectors_ID: np.ndarray
    has_user_I: np.ndarray
    has_item_I: np.ndarray
    scores_I: np.ndarray
    model_versions_I: np.ndarray
    space: str

    def __len__(self) -> int:
        return len(self.impression_ids_I)

    @property
    def vector_width(self) -> int:
        return max(self.user_vectors_ID.shape[1], self.item_vectors_ID.shape[1])

    @classmethod
    def from_arrow(cls, table: pa.Table) -> RankingData:
        """Read rows with the columns of ``schemas.RANKING_FEATURES`` (task, item_id and impression_ts are not read).

        Raises:
            SchemaError: A column is missing.
            DataError: User and item vectors differ in width.
        """
        missing = [name for name in _COLUMNS if name not in table.column_names]
        if missing:
            raise SchemaError(f"ranking data: missing columns {missing}; ranking_features has {list(_COLUMNS)}")
        user_vectors, has_user = _vectors(table, c.USER_EMBEDDING)
        item_vectors, has_item = _vectors(table, c.ITEM_EMBEDDING)
        if user_vectors.shape[1] and item_vectors.shape[1] and user_vectors.shape[1] != item_vectors.shape[1]:
            raise DataError(
                f"ranking data: user vectors are {user_vectors.shape[1]} wide, item vectors {item_vectors.shape[1]}"
            )
        return cls(
            impression_ids_I=_texts(table, c.IMPRESSION_ID),
            user_ids_I=_texts(table, c.USER_ID),
            splits_I=_texts(table, c.SPLIT),
            labels_I=_labels(table),
            sparse=_features(table, c.SPARSE_FEATURES, ""),
            dense=_dense(table),
            user_vectors_ID=user_vectors,
            item_vectors_ID=item_vectors,
            has_user_I=has_user,
            has_item_I=has_item,
            scores_I=table[c.PRECISE_SCORE].to_numpy().astype(np.float32),
            model_versions_I=_texts(table, c.MODEL_VERSION),
            space=_single_space(table),
        )

    def take(self, rows: np.ndarray) -> RankingData:
        """The impressions at ``rows`` (positions or a boolean mask), in that order."""
        arrays = {name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        sparse = {name: values[rows] for name, values in self.sparse.items()}
        dense = {name: values[rows] for name, values in self.dense.items()}
        return replace(self, **arrays, sparse=sparse, dense=dense)

    def split(self, name: str) -> RankingData:
        return self.take(self.splits_I == name)


def _texts(table: pa.Table, column: str) -> np.ndarray:
    return table[column].to_numpy().astype(object)


def _labels(table: pa.Table) -> np.ndarray:
    labels = table[c.LABEL].to_numpy().astype(np.float32)
    bad = ~np.isin(labels, (0.0, 1.0))
    if bad.any():
        raise DataError(f"ranking data: {int(bad.sum())} labels are not 0 or 1, the first is {labels[bad][0]}")
    return labels


def _single_space(table: pa.Table) -> str:
    spaces = sorted(table[c.VECTOR_SPACE].unique().to_pylist())
    if len(spaces) > 1:
        raise VersionMixError(
            f"ranking data: vectors of {len(spaces)} spaces in one set: {', '.join(spaces)}; take the rows of one "
            f"`{c.VECTOR_SPACE}`"
        )
    return spaces[0] if spaces else ""


def _features(table: pa.Table, column: str, missing: str | float) -> dict[str, np.ndarray]:
    """One array per key of a map column, sorted by key; ``missing`` where a row lacks the key."""
    if table.num_rows == 0:
        return {}
    maps = pa.concat_arrays(table[column].chunks)  # a copy from offset 0: keys and items know nothing of slicing
    offsets = maps.offsets.to_numpy()
    rows = np.repeat(np.arange(len(maps)), np.diff(offsets))
    keys = maps.keys.to_numpy(zero_copy_only=False)
    items = maps.items.to_numpy(zero_copy_only=False)
    features = {}
    for name in sorted(set(keys)):
        at = keys == name
        values = np.full(len(maps), missing, dtype=object if isinstance(missing, str) else np.float64)
        values[rows[at]] = items[at]
        features[name] = values
    return features


def _dense(table: pa.Table) -> dict[str, np.ndarray]:
    features = _features(table, c.DENSE_FEATURES, np.nan)
    for name, values in features.items():
        if np.isinf(values).any():
            raise DataError(f"ranking data: dense feature {name!r} is infinite in {int(np.isinf(values).sum())} rows")
    return features


def _vectors(table: pa.Table, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [I, D] with zeros where null, and where they are not null."""
    lists = table[column]
    has_vector = lists.is_valid().to_numpy()
    if not has_vector.any():
        return np.zeros((table.num_rows, 0), np.float32), has_vector
    if len(widths := list_lengths(lists)) != 1:
        raise DataError(f"ranking data: {column} has vectors of several widths: {widths}")
    vectors = np.zeros((table.num_rows, widths[0]), np.float32)
    vectors[has_vector] = fixed_lists(lists.drop_null())
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise DataError(f"ranking data: {column} holds NaN or infinity in {int(bad.sum())} rows")
    return vectors, has_vector
