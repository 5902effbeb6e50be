"""Ranking features: exact against event-by-event counting, strictly before the impression, one row per impression."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.consume.join_spark import PUBLICATION, PublishedVersion
from precise_core.ranking.config import RankingFeaturesConfig
from precise_core.ranking.features import FeatureInputs, build_ranking_features
from precise_core.warehouse.instants import instant
from schemas import IMPRESSIONS, ITEMS, RANKING_FEATURES
from tests import oracles
from tests.oracles import AS_OF, Event

EVENTS = oracles.random_events(4, users=8, items=15, count=400)
ITEM_IDS = [f"i{number}" for number in range(15)]
CATEGORY = {item: ("" if item == "i0" else f"c{int(item[1:]) % 3}") for item in ITEM_IDS} | {"poison": ""}
CONFIG = RankingFeaturesConfig(popularity_days=5, train_share=0.5, validation_share=0.25)
CHECKPOINT = AS_OF - timedelta(days=10)

VERSIONS = [PublishedVersion("v1", CHECKPOINT, "one"), PublishedVersion("v2", AS_OF - timedelta(days=3), "two")]
ITEM_VECTORS: list[tuple[str, str, list[float], datetime]] = [
    ("i1", "v1", [1.0, 2.0], CHECKPOINT),
    ("i1", "v2", [9.0, 9.0], CHECKPOINT),  # made long before it was published
    ("i2", "v1", [3.0, -1.0], CHECKPOINT),
]
USER_VECTORS: list[tuple[str, str, list[float], datetime]] = [
    ("heavy", "v1", [0.5, 0.25], CHECKPOINT + timedelta(days=3)),
    ("u1", "v1", [1.0, 1.0], CHECKPOINT),
]

Impression = tuple[str, str, str, datetime, int, dict[str, str], None]


def random_impressions(count: int) -> list[Impression]:
    """Half of them at the very instant of an event."""
    draw = random.Random(9)
    rows: list[Impression] = []
    for number in range(count):
        at = draw.choice(EVENTS).ts if number % 2 else AS_OF - timedelta(minutes=draw.randrange(60 * 24 * 40))
        user = draw.choice(["heavy", "stranger", *[f"u{n}" for n in range(8)]])
        rows.append((f"p{number}", user, draw.choice(ITEM_IDS), at, number % 2, {"hour": "store-7"}, None))
    return rows


IMPRESSION_ROWS = random_impressions(120)


def build(spark: SparkSession, events: list[Event], **changes: Any) -> DataFrame:
    items: list[Any] = [
        (item, "", "", [CATEGORY[item], "x"] if CATEGORY[item] else [], {}, None, None, False, None)
        for item in ITEM_IDS
    ]
    vectors = f"{{}} string, {PUBLICATION} int, embedding array<float>, since timestamp"
    versions = changes.get("versions", VERSIONS)
    places = {version.model_version: place for place, version in enumerate(versions)}
    held = [
        [(key, places[of], *rest) for key, of, *rest in rows if of in places] for rows in (USER_VECTORS, ITEM_VECTORS)
    ]
    impressions = changes.get("impressions") or spark.createDataFrame(IMPRESSION_ROWS, IMPRESSIONS.spark_schema())
    inputs = FeatureInputs(
        changes.get("task", "all"),
        versions,
        impressions,
        oracles.events_frame(spark, events),
        spark.createDataFrame(items, ITEMS.spark_schema()),
        spark.createDataFrame(held[0], vectors.format("user_id")),
        spark.createDataFrame(held[1], vectors.format("item_id")),
    )
    return build_ranking_features(inputs, changes.get("config", CONFIG), changes.get("earlier"))


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
    for impression_id, user, item, at, *_ in IMPRESSION_ROWS:
        expected = oracles.dense_features(user, item, at, EVENTS, CATEGORY, CONFIG.popularity_days)
        assert built[impression_id]["dense_features"] == pytest.approx(expected), impression_id
    assert any(row["dense_features"]["user_item_events"] > 0 for row in built.values())
    assert any(row["dense_features"]["item_recent_events"] > 0 for row in built.values())


def test_events_at_or_after_the_last_impression_change_nothing(spark: SparkSession, built: dict[str, Any]) -> None:
    last = max(row[3] for row in IMPRESSION_ROWS)
    rows = build(spark, oracles.poisoned(EVENTS, last)).collect()
    assert {row["impression_id"]: row for row in rows} == built


def test_sparse_features_and_labels(built: dict[str, Any]) -> None:
    for impression_id, user, item, at, label, *_ in IMPRESSION_ROWS:
        row = built[impression_id]
        assert row["label"] == label and row["task"] == "all"
        assert row["sparse_features"] == {
            "user_id": user,
            "item_id": item,
            "category": CATEGORY[item],
            "hour": str(at.hour),
            "day_of_week": str(at.isoweekday() % 7 + 1),
            "context_hour": "store-7",  # a context entry never hides a feature of the same name
        }


def test_vectors_only_where_they_existed_before_the_impression(built: dict[str, Any]) -> None:
    scored = 0
    for impression_id, user, item, at, *_ in IMPRESSION_ROWS:
        row = built[impression_id]
        version = VERSIONS[at >= VERSIONS[1].since]
        known = {(name, of): vector for name, of, vector, since in ITEM_VECTORS + USER_VECTORS if since <= at}
        item_vector, user_vector = (known.get((name, version.model_version)) for name in (item, user))
        assert (row["model_version"], row["vector_space"]) == (version.model_version, version.space)
        assert (row["item_embedding"], row["user_embedding"]) == (item_vector, user_vector)
        if item_vector is None or user_vector is None:
            assert row["precise_score"] is None
        else:
            scored += 1
            assert row["precise_score"] == sum(a * b for a, b in zip(user_vector, item_vector, strict=True))
    assert scored


def expected_splits(rows: dict[str, Any]) -> dict[str, str]:
    """By place in the time span of the rows of one space."""
    times = [row["impression_ts"] for row in rows.values()]
    places = {name: (row["impression_ts"] - min(times)) / (max(times) - min(times)) for name, row in rows.items()}
    return {name: "train" if p < 0.5 else "validation" if p < 0.75 else "test" for name, p in places.items()}


def test_split_follows_the_time_of_the_impressions_of_a_space(built: dict[str, Any]) -> None:
    for space in ("one", "two"):
        rows = {name: row for name, row in built.items() if row["vector_space"] == space}
        assert {name: row["split"] for name, row in rows.items()} == expected_splits(rows)
        assert {"train", "test"} <= {row["split"] for row in rows.values()}


def test_earlier_rows_stay_and_count_for_the_split(spark: SparkSession, built: dict[str, Any]) -> None:
    stored = spark.createDataFrame([row for row in built.values()], RANKING_FEATURES.spark_schema())
    cut = VERSIONS[1].since
    later = [version for version in VERSIONS if version.since >= cut]
    frame = build(
        spark,
        EVENTS,
        versions=[PublishedVersion(later[0].model_version, cut, "one")],  # the night goes on in the space before it
        impressions=spark.createDataFrame(
            [row for row in IMPRESSION_ROWS if row[3] >= cut], IMPRESSIONS.spark_schema()
        ),
        earlier=stored.where(F.col("impression_ts") < instant(cut)),
    )
    found = {row["impression_id"]: row.asDict() for row in frame.collect()}
    assert set(found) == set(built) and {row["vector_space"] for row in found.values()} == {"one"}
    assert {name: row.pop("split") for name, row in found.items()} == expected_splits(found)
    for name, row in found.items():
        assert row == {
            key: value for key, value in (built[name].asDict() | {"vector_space": "one"}).items() if key != "split"
        }


def test_shares_that_leave_no_test_split_are_refused() -> None:
    with pytest.raises(ValidationError, match="leave nothing to test on"):
        RankingFeaturesConfig(train_share=0.8, validation_share=0.2)
