"""The oracle of the synthetic world gives the frequencies with which the world draws its events."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from precise_core.data_sets import synthetic
from precise_core.data_sets.synthetic import interests
from precise_core.data_sets.synthetic_truth import item_probabilities, scene_probabilities, topic_probabilities
from precise_core.sources.config import SyntheticSource
from schemas import columns as c

WORLD = SyntheticSource(
    kind="synthetic", users=400, items=45, days=40, events_per_user=60, topics=4, share_rate=0.3, impressions_per_user=0
)


@dataclass(frozen=True)
class World:
    """What the tests read of it, fetched once."""

    events: pd.DataFrame
    interests: dict[str, tuple[int, int]]
    published: dict[str, float]


@pytest.fixture(scope="module")
def world(spark: SparkSession) -> World:
    raw = synthetic.read(spark, WORLD)
    return World(
        raw.events.select(c.USER_ID, c.ITEM_ID, c.SCENE, c.ACTION, c.EVENT_TS).toPandas(),
        {row[c.USER_ID]: (row["first"], row["second"]) for row in interests(spark, WORLD).collect()},
        {row[c.ITEM_ID]: row[c.PUBLISHED_TS].timestamp() for row in raw.items.collect()},
    )


@pytest.mark.parametrize(("scene", "action"), [(None, None), ("videos", None), (None, "share"), ("articles", "click")])
def test_observed_frequencies_are_the_oracle_s(world: World, scene: str | None, action: str | None) -> None:
    events = world.events
    if scene is not None:
        events = events[events[c.SCENE] == scene]
    if action is not None:
        events = events[events[c.ACTION] == action]
    numbers = list(range(WORLD.items))
    expected = np.zeros(WORLD.items)
    start = events[c.EVENT_TS].min().floor("D")
    for day, of_day in events.groupby((events[c.EVENT_TS] - start).dt.days):
        noon = (start.timestamp() if start.tzinfo else start.tz_localize("UTC").timestamp()) + (day + 0.5) * 86_400
        exists = np.array([world.published[f"item-{number}"] <= noon for number in numbers])
        items_TN = item_probabilities(WORLD, numbers, exists, scene)
        np.testing.assert_allclose(items_TN.sum(axis=1), 1)
        topics_ET = [topic_probabilities(WORLD, *world.interests[user], action) for user in of_day[c.USER_ID]]
        expected += np.sum(topics_ET, axis=0) @ items_TN
    observed = events[c.ITEM_ID].value_counts().reindex([f"item-{number}" for number in numbers], fill_value=0)
    # Four events in a row share a topic, so counts scatter up to twice as far as independent ones.
    assert (np.abs(observed - expected) < 10 * np.sqrt(expected) + 8).all()
    assert np.corrcoef(observed, expected)[0, 1] > 0.99


def test_a_popular_item_that_does_not_exist_yet_leaves_its_share_to_the_others() -> None:
    everything = np.ones(WORLD.items, bool)
    without_fifth = everything & (np.arange(WORLD.items) != 4)
    complete = item_probabilities(WORLD, range(WORLD.items), everything, None)
    reduced = item_probabilities(WORLD, range(WORLD.items), without_fifth, None)
    assert reduced[0, 4] == 0 and complete[0, 4] > 0.05
    assert (reduced[0, [0, 8, 12]] > complete[0, [0, 8, 12]]).all()
    np.testing.assert_array_equal(reduced[1:], complete[1:])
    assert scene_probabilities(WORLD).sum() == pytest.approx(1)
