"""Ranking features: exact against event-by-event counting, strictly before the impression, one row per impression."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession

from precise_core.features.config import RankingFeaturesConfig
from precise_core.features.ranking import build_ranking_features
from schemas import IMPRESSIONS, ITEM_EMBEDDINGS, ITEMS, RANKING_FEATURES, USER_EMBEDDINGS
from tests import oracles
from tests.oracles import AS_OF, Event

EVENTS = oracles.random_events(4, users=8, items=15, count=400)
ITEM_IDS = [f"i{number}" for number in range(15)]
CATEGORY = {item: ("" if item == "i0" else f"c{int(item[1:]) % 3}") for item in ITEM_IDS} | {"poison": ""}
CONFIG = RankingFeaturesConfig(popularity_days=5, train_share=0.5, validation_share=0.25)
CHECKPOINT = AS_OF - timedelta(days=10)

Impression = tuple[str, str, str, datetime, int, dict[str, str]]


def random_impressions(count: int) -> list[Impression]:
    """Half of them at the very instant of an event."""
    draw = random.Random(9)
    rows: list[Impression] = []
    for number in range(count):
        at = draw.choice(EVENTS).ts if number % 2 else AS_OF - timedelta(minutes=draw.randrange(60 * 24 * 40))
        user = draw.choice(["heavy", "stranger", *[f"u{n}" for n in range(8)]])
        rows.append((f"p{number}", user, draw.choice(ITEM_IDS), at, number % 2, {"hour": "store-7"}))
    return rows


IMPRESSION_ROWS = random_impressions(120)


def build(spark: SparkSession, events: list[Event], **changes: Any) -> DataFrame:
    items: list[Any] = [
        (item, "", "", [CATEGORY[item], "x"] if CATEGORY[item] else [], {}, None, None, False) for item in ITEM_IDS
    ]
    item_vectors = [
        ("i1", 2, "v1", [1.0, 2.0], AS_OF, False, "h"),
        ("i1", 2, "v2", [9.0, 9.0], AS_OF, False, "h"),
        ("i2", 3, "v1", [3.0, -1.0], AS_OF, False, "h"),
    ]
    user_vectors = [
        ("heavy", "all", "v1", [0.5, 0.25], CHECKPOINT + timedelta(days=3), 7),
        ("heavy", "share", "v1", [7.0, 7.0], CHECKPOINT, 7),
        ("u1", "all", "v1", [1.0, 1.0], CHECKPOINT, 7),
    ]
    arguments: dict[str, Any] = {"task": "all", "model_version": "v1", "as_of": CHECKPOINT, "config": CONFIG}
    return build_ranking_features(
        spark.createDataFrame(IMPRESSION_ROWS, IMPRESSIONS.spark_schema()),
        oracles.events_frame(spark, events),
        spark.createDataFrame(items, ITEMS.spark_schema()),
        spark.createDataFrame(item_vectors, ITEM_EMBEDDINGS.spark_schema()),
        spark.createDataFrame(user_vectors, USER_EMBEDDINGS.spark_schema()),
        **(arguments | changes),
    )


@pytest.fixture(scope="module")
def built(spark: SparkSession) -> dict[str, Any]:
    frame = build(spark, EVENTS)
    assert [(f.name, f.dataType.simpleString()) for f in frame.schema] == [
        (f.name, f.dataType.simpleString()) for f in RANKING_FEATURES.spark_schema()
    ]
    rows = frame.collect()
    assert len(rows) == len(IMPRESSION_ROWS)
    return {row["impression_id"]: row for row in rows}


def test_dense_features_equal_event_by_event_counting(built: dict[str, Any]) -> None:
    for impression_id, user, item, at, _, _ in IMPRESSION_ROWS:
        expected = oracles.dense_features(user, item, at, EVENTS, CATEGORY, CONFIG.popularity_days)
        assert built[impression_id]["dense_features"] == pytest.approx(expected), impression_id
    assert any(row["dense_features"]["user_item_events"] > 0 for row in built.values())
    assert any(row["dense_features"]["item_recent_events"] > 0 for row in built.values())


def test_events_at_or_after_the_last_impression_change_nothing(spark: SparkSession, built: dict[str, Any]) -> None:
    last = max(row[3] for row in IMPRESSION_ROWS)
    rows = build(spark, oracles.poisoned(EVENTS, last)).collect()
    assert {row["impression_id"]: row for row in rows} == built


def test_sparse_features_and_labels(built: dict[str, Any]) -> None:
    for impression_id, user, item, at, label, _ in IMPRESSION_ROWS:
        row = built[impression_id]
        assert row["label"] == label and row["model_version"] == "v1"
        assert row["sparse_features"] == {
            "user_id": user,
            "item_id": item,
            "category": CATEGORY[item],
            "hour": str(at.hour),
            "day_of_week": str(at.isoweekday() % 7 + 1),
            "context_hour": "store-7",  # a context entry never hides a feature of the same name
        }


def test_vectors_only_where_they_existed_before_the_impression(built: dict[str, Any]) -> None:
    item_vectors = {"i1": [1.0, 2.0], "i2": [3.0, -1.0]}
    user_vectors = {"heavy": ([0.5, 0.25], CHECKPOINT + timedelta(days=3)), "u1": ([1.0, 1.0], CHECKPOINT)}
    scored = 0
    for impression_id, user, item, at, _, _ in IMPRESSION_ROWS:
        row = built[impression_id]
        item_vector = item_vectors.get(item) if at >= CHECKPOINT else None
        vector, since = user_vectors.get(user, (None, AS_OF))
        user_vector = vector if at >= max(CHECKPOINT, since) else None
        assert (row["item_embedding"], row["user_embedding"]) == (item_vector, user_vector)
        if item_vector is None or user_vector is None:
            assert row["precise_score"] is None
        else:
            scored += 1
            assert row["precise_score"] == sum(a * b for a, b in zip(user_vector, item_vector, strict=True))
    assert scored


def test_vectors_of_another_version_or_task_are_never_joined(spark: SparkSession) -> None:
    rows = build(spark, EVENTS, model_version="v2").collect()
    assert {tuple(row["item_embedding"]) for row in rows if row["item_embedding"]} == {(9.0, 9.0)}
    assert not any(row["user_embedding"] or row["precise_score"] for row in rows)


def test_split_follows_the_time_of_the_impressions(built: dict[str, Any]) -> None:
    times = [row[3] for row in IMPRESSION_ROWS]
    first, span = min(times), max(times) - min(times)
    for impression_id, _, _, at, _, _ in IMPRESSION_ROWS:
        place = (at - first) / span
        expected = "train" if place < 0.5 else "validation" if place < 0.75 else "test"
        assert built[impression_id]["split"] == expected
    assert {row["split"] for row in built.values()} == {"train", "validation", "test"}


def test_shares_that_leave_no_test_split_are_refused() -> None:
    with pytest.raises(ValidationError, match="leave nothing to test on"):
        RankingFeaturesConfig(train_share=0.8, validation_share=0.2)
