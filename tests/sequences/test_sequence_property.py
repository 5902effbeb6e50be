"""Any log, split into any nights, with duplicates, corrections, deletions and erasures, ends in one full build."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from precise_core.sequences.config import SequencesConfig
from tests.oracles import ACTIONS, AS_OF, SCENES, Event
from tests.sequence_world import SEQUENCES, World

USERS, IDS, ITEMS = 25, 400, 8
STEPS = (timedelta(0), timedelta(hours=12), timedelta(days=1), timedelta(days=1), timedelta(days=-1))
NIGHTS = given(seed=st.integers(0, 2**32 - 1), nights=st.integers(2, 4))
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

# Never touched, so that no night is without events.
ANCHOR = Event(AS_OF - timedelta(days=90), "anchor", "anchor", "i1", "videos", "click")


def random_event(draw: random.Random) -> Event:
    """Few ids, users and instants: most events meet one that is there already."""
    return Event(
        ts=AS_OF + timedelta(hours=draw.randint(-40, 40), microseconds=draw.randint(0, 1)),
        event_id=f"e{draw.randrange(IDS):03d}",
        user_id=f"u{draw.randrange(USERS)}",
        item_id=f"i{draw.randrange(ITEMS)}",
        scene=draw.choice(SCENES),
        action=draw.choice(ACTIONS),
    )


def play(world: World, seed: int, nights: int) -> None:
    draw = random.Random(seed)
    world.put(ANCHOR)
    for _ in range(nights):
        new = [random_event(draw) for _ in range(draw.randint(1, 150))]
        again = draw.sample(sorted(world.events.values()), min(3, len(world.events)))  # delivered twice
        world.put(*{event.event_id: event for event in [*new, *again]}.values())
        deletable = sorted(set(world.events) - {ANCHOR.event_id})
        if draw.random() < 0.7:
            world.delete(*draw.sample(deletable, min(draw.randint(1, 12), len(deletable))))
        if draw.random() < 0.4:
            world.erase(f"u{draw.randrange(USERS)}")
        if draw.random() < 0.3:
            world.add_items([f"i{len(world.vocabulary)}"])
        if draw.random() < 0.3:
            lengths = {task: draw.randint(1, 4) for task in draw.sample(["all", *world.tasks], 2)}
            world.sequences = SequencesConfig(max_length=4, max_lengths=lengths, buckets=SEQUENCES.buckets)
        world.as_of += draw.choice(STEPS)
        world.night()  # equals the oracle
    version = world.night().version
    assert world.night(full=True).version == version, "a full build gives other rows"


@settings(max_examples=2, deadline=None, suppress_health_check=QUIET)
@NIGHTS
def test_any_split_into_nights_ends_in_one_full_build(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, seed: int, nights: int
) -> None:
    play(world_in(spark, tmp_path_factory), seed, nights)


@pytest.mark.faults
@settings(max_examples=40, deadline=None, suppress_health_check=QUIET)
@NIGHTS
def test_many_splits_into_nights_end_in_one_full_build(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, seed: int, nights: int
) -> None:
    play(world_in(spark, tmp_path_factory), seed, nights)


def world_in(spark: SparkSession, folders: pytest.TempPathFactory) -> World:
    folder: Path = folders.mktemp("nights")
    return World(spark, folder / "warehouse", items=ITEMS - 2)  # two items are not in the vocabulary yet
