"""The ranking model learns what is planted, gains from vectors, and refuses what would make its numbers wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import roc_auc_score

from precise_core.errors import CheckpointError, DataError, SchemaError, TrainingError, VersionMixError
from precise_core.ranking.config import DCNConfig, RankerConfig
from precise_core.ranking.data import RankingData
from precise_core.ranking.train import RankerCheckpoint, score, train_ranker
from schemas import RANKING_FEATURES
from schemas import columns as c

WIDTH = 4
DCN_CONFIG = DCNConfig(embedding_width=4, hash_buckets=100, deep_widths=(16,), dropout=0.0)
CONFIG = RankerConfig(epochs=4, batch_size=64, learning_rate=0.01, patience=2)
TABLE_SCHEMA = RANKING_FEATURES.arrow_schema()


def impressions(rows: int = 1500, seed: int = 0, **overrides: Any) -> pa.Table:
    """Rows of ranking_features whose label depends on a scene, on a number and on the two vectors."""
    random = np.random.default_rng(seed)
    users, items = random.normal(size=(rows, WIDTH)), random.normal(size=(rows, WIDTH))
    scene, price, dot = random.integers(0, 4, rows), random.normal(100, 20, rows), (users * items).sum(axis=1)
    chance = 1 / (1 + np.exp(-(2.0 * (scene == 1) - (price - 100) / 20 + 1.5 * dot - 0.5)))
    has_user = random.random(rows) > 0.1
    columns = {
        c.IMPRESSION_ID: [f"i{seed}-{row:05d}" for row in range(rows)],
        c.USER_ID: [f"u{user}" for user in random.integers(0, 50, rows)],
        c.ITEM_ID: [f"item{item}" for item in random.integers(0, 50, rows)],
        c.IMPRESSION_TS: [datetime(2024, 1, 1, tzinfo=UTC)] * rows,
        c.SPLIT: np.where(np.arange(rows) < rows * 2 // 3, "train", "validation").tolist(),
        c.LABEL: (random.random(rows) < chance).astype(int).tolist(),
        c.SPARSE_FEATURES: [[("scene", f"s{value}"), ("day", "mon")] for value in scene],
        c.DENSE_FEATURES: [[("price", value)] + ([("age", 3.0)] if row % 3 else []) for row, value in enumerate(price)],
        c.USER_EMBEDDING: [vector.tolist() if there else None for vector, there in zip(users, has_user, strict=True)],
        c.ITEM_EMBEDDING: items.tolist(),
        c.PRECISE_SCORE: [value if there else None for value, there in zip(dot, has_user, strict=True)],
        c.MODEL_VERSION: ["universal-1"] * rows,
        c.TASK: ["all"] * rows,
        c.VECTOR_SPACE: ["space-1"] * rows,
    }
    return pa.table({**columns, **overrides}, schema=TABLE_SCHEMA)


@pytest.fixture(scope="module")
def data() -> RankingData:
    return RankingData.from_arrow(impressions())


def train(data: RankingData, out: Path, **overrides: Any) -> RankerCheckpoint:
    arguments = {
        "dcn": DCN_CONFIG,
        "config": CONFIG,
        "use_vectors": True,
        "seed": 3,
        "out": out,
        "parent": {"task": "click"},
    }
    return train_ranker(data.split("train"), data.split("validation"), **{**arguments, **overrides})


@pytest.fixture(scope="module")
def checkpoint(data: RankingData, tmp_path_factory: pytest.TempPathFactory) -> RankerCheckpoint:
    return train(data, tmp_path_factory.mktemp("rankers"))


def test_vectors_help_on_impressions_that_were_never_seen(
    data: RankingData, checkpoint: RankerCheckpoint, tmp_path: Path
) -> None:
    test = RankingData.from_arrow(impressions(800, seed=9))
    plain = train(data, tmp_path, use_vectors=False)
    with_vectors, without = (roc_auc_score(test.labels_I, score(which, test)) for which in (checkpoint, plain))
    assert without > 0.6
    assert with_vectors > without + 0.05
    assert checkpoint.ranker_version.startswith("dcn+click-")
    assert plain.ranker_version.startswith("dcn-")
    assert (plain.space, checkpoint.space) == (None, "space-1")


def test_probabilities_are_float32_between_0_and_1(data: RankingData, checkpoint: RankerCheckpoint) -> None:
    probabilities = score(checkpoint, data)
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (len(data),)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert probabilities.mean() == pytest.approx(data.labels_I.mean(), abs=0.08)


def test_the_order_of_rows_changes_nothing(data: RankingData, checkpoint: RankerCheckpoint, tmp_path: Path) -> None:
    torch.rand(7)  # the state of the caller's generator must not matter either
    order = np.random.default_rng(1).permutation(len(data))
    again = train(data.take(order), tmp_path)
    assert again.ranker_version == checkpoint.ranker_version
    np.testing.assert_array_equal(score(again, data), score(checkpoint, data))


def test_another_seed_is_another_version(data: RankingData, checkpoint: RankerCheckpoint, tmp_path: Path) -> None:
    assert train(data, tmp_path, seed=4).ranker_version != checkpoint.ranker_version


def test_an_opened_checkpoint_scores_the_same(data: RankingData, checkpoint: RankerCheckpoint) -> None:
    opened = RankerCheckpoint.open(checkpoint.folder)
    np.testing.assert_array_equal(score(opened, data), score(checkpoint, data))
    assert opened.parent == {"task": "click"}
    assert opened.ranker_version == checkpoint.folder.name == checkpoint.ranker_version


@pytest.mark.parametrize("name", ["weights.safetensors", "ranker.json"])
def test_a_tampered_checkpoint_is_refused(data: RankingData, tmp_path: Path, name: str) -> None:
    folder = train(data, tmp_path, config=RankerConfig(epochs=1)).folder
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        RankerCheckpoint.open(folder)


def test_training_stops_when_validation_gets_worse_and_keeps_the_best(data: RankingData, tmp_path: Path) -> None:
    reports: list[dict[str, float]] = []
    config = RankerConfig(epochs=40, batch_size=64, learning_rate=0.03, patience=2)
    kept = train(data, tmp_path, config=config, progress=reports.append)
    losses = [report["validation_log_loss"] for report in reports]
    assert len(losses) < 40
    assert kept.metrics["validation_log_loss"] == min(losses)
    assert kept.metrics["epoch"] == np.argmin(losses) + 1 == len(losses) - 2


def test_nothing_to_learn_from_is_refused(data: RankingData, tmp_path: Path) -> None:
    for label in (0, 1):
        one_class = RankingData.from_arrow(impressions(60, **{c.LABEL: [label] * 60}))
        with pytest.raises(TrainingError, match="both classes are needed"):
            train(one_class, tmp_path)
    with pytest.raises(TrainingError, match="validation split is empty"):
        train(data.take(data.splits_I == "train"), tmp_path)
    nulls = {name: [None] * 60 for name in (c.USER_EMBEDDING, c.ITEM_EMBEDDING, c.PRECISE_SCORE)}
    with pytest.raises(TrainingError, match="no training row has a vector of the space 'space-1'"):
        train(RankingData.from_arrow(impressions(60, **nulls)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_stops_the_training(data: RankingData, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loss.* is (nan|inf)"):
        train(data, tmp_path, config=RankerConfig(epochs=3, learning_rate=1e30))
    assert list(tmp_path.iterdir()) == []


def test_vectors_of_another_space_are_refused(data: RankingData, checkpoint: RankerCheckpoint, tmp_path: Path) -> None:
    other = RankingData.from_arrow(impressions(60, **{c.VECTOR_SPACE: ["space-2"] * 60}))
    with pytest.raises(VersionMixError, match=r"'space-1'.*'space-2'"):
        score(checkpoint, other)
    with pytest.raises(VersionMixError, match=r"'space-1'.*'space-2'"):
        train_ranker(
            data, other, dcn=DCN_CONFIG, config=CONFIG, use_vectors=True, seed=1, out=tmp_path, parent={"task": "click"}
        )
    plain = train(data, tmp_path, use_vectors=False)
    assert len(score(plain, other)) == 60  # the plain DCN reads no vector, so there is nothing to mix
    with pytest.raises(VersionMixError, match="space-1, space-2"):
        RankingData.from_arrow(impressions(2, **{c.VECTOR_SPACE: ["space-1", "space-2"]}))


def test_checkpoints_of_one_space_are_learned_from_together(checkpoint: RankerCheckpoint, tmp_path: Path) -> None:
    names = np.where(np.arange(1500) % 2, "universal-1", "universal-2").tolist()
    ranker = train(RankingData.from_arrow(impressions(**{c.MODEL_VERSION: names})), tmp_path)
    described = json.loads((ranker.folder / "ranker.json").read_text(encoding="utf-8"))
    assert described["model_versions"] == ["universal-1", "universal-2"]
    assert described["vector_space"] == ranker.space == "space-1"
    later = RankingData.from_arrow(impressions(20, **{c.MODEL_VERSION: ["universal-3"] * 20}))
    np.testing.assert_array_equal(score(ranker, later), score(checkpoint, later))


def test_features_are_hashed_or_looked_up_or_left_out(data: RankingData, tmp_path: Path) -> None:
    dcn = DCN_CONFIG.model_copy(update={"vocabulary_features": ("scene",), "vocabulary_min_count": 250})
    config = CONFIG.model_copy(update={"leave_out": ("day", "age")})
    ranker = train(data, tmp_path, dcn=dcn, config=config)
    values, counts = np.unique(data.split("train").sparse["scene"], return_counts=True)
    frequent = sorted(values[counts >= 250].tolist())
    assert 0 < len(frequent) < len(values)
    opened = RankerCheckpoint.open(ranker.folder).inputs
    assert opened.vocabularies == {"scene": {value: row for row, value in enumerate(frequent, start=2)}}
    assert (opened.sparse_names, list(opened.dense_statistics)) == (("scene",), ["price"])
    assert ranker.model.embeddings.weight.shape[0] == len(frequent) + 2
    rare = [[("scene", value), ("day", "mon")] for value in [*sorted(set(values) - set(frequent)), "never seen"]]
    rows = impressions(len(rare), **{c.SPARSE_FEATURES: rare})
    assert set(opened.tensors(RankingData.from_arrow(rows))[0].flatten().tolist()) == {1}  # one row for all others
    for key, changes in (("dcn", {"vocabulary_features": ("colour",)}), ("config", {"leave_out": ("colour",)})):
        changed = {"dcn": DCN_CONFIG, "config": CONFIG}[key].model_copy(update=changes)
        with pytest.raises(DataError, match=r"no training row has \['colour'\]"):
            train(data, tmp_path, **{key: changed})


def test_rows_without_any_vector_can_be_scored(checkpoint: RankerCheckpoint) -> None:
    nulls = {name: [None] * 20 for name in (c.USER_EMBEDDING, c.ITEM_EMBEDDING, c.PRECISE_SCORE)}
    probabilities = score(checkpoint, RankingData.from_arrow(impressions(20, **nulls)))
    assert np.isfinite(probabilities).all()
    assert score(checkpoint, RankingData.from_arrow(impressions(0))).shape == (0,)


def test_a_missing_dense_feature_is_named(checkpoint: RankerCheckpoint) -> None:
    table = impressions(5, **{c.DENSE_FEATURES: [[("other", 1.0)]] * 5})
    with pytest.raises(DataError, match=r"dense features \[.*\], the rows have only \['other'\]"):
        score(checkpoint, RankingData.from_arrow(table))


def test_a_categorical_feature_that_no_row_of_a_batch_has_is_a_missing_value(checkpoint: RankerCheckpoint) -> None:
    absent = impressions(5, **{c.SPARSE_FEATURES: [[("day", "mon")]] * 5})
    empty = impressions(5, **{c.SPARSE_FEATURES: [[("day", "mon"), ("scene", "")]] * 5})
    scores = [score(checkpoint, RankingData.from_arrow(table)) for table in (absent, empty)]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize(
    ("slices", "rows"),
    [
        (lambda table: table[10:15], np.r_[10:15]),
        (lambda table: pa.concat_tables([table[10:15], table[20:25]]), np.r_[10:15, 20:25]),
    ],
)
def test_rows_are_read_as_they_are_even_from_a_slice(slices: Callable[[pa.Table], pa.Table], rows: np.ndarray) -> None:
    table = impressions(30)
    whole, part = RankingData.from_arrow(table), RankingData.from_arrow(slices(table))
    for name in ("scene", "day"):
        assert part.sparse[name].tolist() == whole.sparse[name][rows].tolist()
    np.testing.assert_array_equal(part.dense["age"], whole.dense["age"][rows])
    np.testing.assert_array_equal(part.user_vectors_ID, whole.user_vectors_ID[rows])
    np.testing.assert_array_equal(np.isnan(part.dense["age"]), rows % 3 == 0)
    records = table.to_pylist()
    assert whole.sparse["scene"].tolist() == [dict(row[c.SPARSE_FEATURES])["scene"] for row in records]
    assert whole.has_user_I.tolist() == [row[c.USER_EMBEDDING] is not None for row in records]
    assert np.isnan(whole.scores_I).tolist() == [row[c.PRECISE_SCORE] is None for row in records]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({c.LABEL: [0, 2]}, "1 labels are not 0 or 1"),
        ({c.DENSE_FEATURES: [[("price", float("inf"))], []]}, "'price' is infinite in 1 rows"),
        ({c.ITEM_EMBEDDING: [[1.0, 2.0], [1.0]]}, "item_embedding has vectors of several widths"),
        ({c.ITEM_EMBEDDING: [[1.0, 2.0], [1.0, 3.0]]}, "user vectors are 4 wide, item vectors 2"),
        ({c.ITEM_EMBEDDING: [[1.0, 2.0, 0.0, float("nan")], None]}, "item_embedding holds NaN or infinity in 1 rows"),
    ],
)
def test_bad_rows_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        RankingData.from_arrow(impressions(2, **overrides))


def test_a_missing_column_is_named() -> None:
    with pytest.raises(SchemaError, match=r"missing columns \['label'\]"):
        RankingData.from_arrow(impressions(2).drop_columns([c.LABEL]))
