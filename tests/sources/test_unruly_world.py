"""The synthetic world with a heavy user, repeated and late deliveries, and interests that move."""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd
import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from precise_core.data_sets import synthetic
from precise_core.data_sets.synthetic import interests
from precise_core.intake.cleaning import clean_events, clean_items
from precise_core.sources.config import SyntheticSource
from schemas import columns as c

CUT = datetime(2024, 1, 13, tzinfo=UTC)
WORLD = SyntheticSource(
    kind="synthetic",
    users=120,
    items=64,
    days=20,
    events_per_user=30,
    topics=4,
    impressions_per_user=0,
    drift_share=0.5,
    heavy_user_share=0.5,
    duplicate_share=0.2,
    late_share=0.3,
)


def deliveries(spark: SparkSession, source: SyntheticSource) -> pd.DataFrame:
    events = synthetic.read(spark, source).events
    return events.select(
        c.EVENT_ID, c.USER_ID, c.ITEM_ID, F.unix_micros(c.EVENT_TS).alias(c.EVENT_TS), c.RAW
    ).toPandas()


@pytest.fixture(scope="module")
def everything(spark: SparkSession) -> pd.DataFrame:
    return deliveries(spark, WORLD)


def test_one_user_has_half_of_all_events_and_a_fifth_comes_twice(spark: SparkSession, everything: pd.DataFrame) -> None:
    times = everything.groupby(c.EVENT_ID)[c.RAW].agg(["size", "nunique"])
    assert set(times["size"]) == {1, 2} and set(times["nunique"]) == {1}
    assert 0.15 < (times["size"] == 2).mean() < 0.25
    once = everything.drop_duplicates(c.EVENT_ID)
    assert 0.4 < (once[c.USER_ID] == "user-0").mean() < 0.6
    raw = synthetic.read(spark, WORLD)
    items = clean_items(raw.items)
    cleaned = clean_events(raw.events, items.accepted, not_after=datetime(2030, 1, 1, tzinfo=UTC))
    reasons = {row["reason"]: row["count"] for row in cleaned.rejected.groupBy("reason").count().collect()}
    assert reasons == {"duplicate_event": len(everything) - len(once)}


def test_what_comes_late_is_missing_until_it_has_come(spark: SparkSession, everything: pd.DataFrame) -> None:
    so_far = deliveries(spark, WORLD.model_copy(update={"delivered_before": CUT}))
    assert set(so_far[c.RAW]) <= set(everything[c.RAW])
    cut = CUT.timestamp() * 1e6
    assert (so_far[c.EVENT_TS] < cut).all()
    missing = set(everything[everything[c.EVENT_TS] < cut][c.EVENT_ID]) - set(so_far[c.EVENT_ID])
    assert 0.02 < len(missing) / len(so_far) < 0.2
    dated = everything[everything[c.EVENT_ID].isin(missing)][c.EVENT_TS]
    assert dated.min() < cut - 2 * 86_400e6  # some are days late


def test_moved_interests_show_in_the_events(spark: SparkSession, everything: pd.DataFrame) -> None:
    first, last = (
        {row[c.USER_ID]: (row["first"], row["second"]) for row in interests(spark, WORLD, day).collect()}
        for day in (0, WORLD.days)
    )
    moved = {user for user in first if first[user] != last[user]}
    assert 0.35 < len(moved) / WORLD.users < 0.65
    assert all(one != other for one, other in last.values())
    topic = everything[c.ITEM_ID].str.rpartition("-")[2].astype(int) % WORLD.topics
    of_moved = everything[c.USER_ID].isin(moved - {"user-0"})
    day = (everything[c.EVENT_TS] / 1e6 - datetime(2024, 1, 1, tzinfo=UTC).timestamp()) / 86_400
    is_old, is_new = (topic == everything[c.USER_ID].map(lambda u, of=of: of[u][0]) for of in (first, last))
    assert is_old[of_moved & (day < 3)].mean() > is_new[of_moved & (day < 3)].mean() + 0.15
    assert is_new[of_moved & (day > 17)].mean() > is_old[of_moved & (day > 17)].mean() + 0.15


def test_a_heavy_user_needs_others() -> None:
    with pytest.raises(ValidationError, match="heavy_user_share 0.5 needs at least 2 users, there is 1"):
        SyntheticSource(kind="synthetic", users=1, heavy_user_share=0.5)
