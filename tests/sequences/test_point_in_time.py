"""Poison: whatever happens at or after an instant changes nothing that is used for it.

Sequences and windows have the same test beside their other tests.
"""

from __future__ import annotations

import numpy as np
from pyspark.sql import SparkSession

from precise_core.evaluation.night import event_arrays
from precise_core.evaluation.questions import EventArrays, Periods
from precise_core.recall.popular import excluded_items
from precise_core.sequences.config import WindowsConfig
from precise_core.sequences.windows import build_training_windows
from schemas import ITEMS
from tests import oracles
from tests.oracles import AS_OF, TASKS
from tests.ranking.test_ranking_features import EVENTS as RANKED_EVENTS
from tests.ranking.test_ranking_features import IMPRESSION_ROWS
from tests.ranking.test_ranking_features import build as build_ranking
from tests.sequence_world import DAY

EVENTS = oracles.random_events(7, users=15, items=20, count=500)
POISONED = oracles.poisoned(EVENTS, AS_OF)
VOCABULARY = oracles.vocabulary_of(POISONED)


def arrays(spark: SparkSession, events: list[oracles.Event], days: int = 28) -> EventArrays:
    frame, vocabulary = oracles.events_frame(spark, events), oracles.vocabulary_frame(spark, VOCABULARY)
    return event_arrays(frame, vocabulary, AS_OF + days * DAY)


def history(events: EventArrays, mask_E: np.ndarray) -> list[tuple[str, list[int]]]:
    rows, sequences, _ = events.sequences(mask_E)
    return [(events.user_ids[row], items.tolist()) for row, items in zip(rows, sequences, strict=True)]


def test_what_an_evaluation_knows_is_blind_to_its_truth(spark: SparkSession) -> None:
    known = []
    for events in (EVENTS, POISONED):
        loaded = arrays(spark, events)
        periods = Periods.by_time(loaded, int(AS_OF.timestamp()))
        assert periods.truth_E.any() and (loaded.seconds_E[periods.truth_E] >= AS_OF.timestamp()).all()
        known.append(history(loaded, periods.known_E))
    assert known[0] == known[1]


def test_the_evaluation_and_the_windows_hold_out_the_same_event(spark: SparkSession) -> None:
    """Also where a user's last two events lie within one second."""
    frame, vocabulary = oracles.events_frame(spark, EVENTS), oracles.vocabulary_frame(spark, VOCABULARY)
    config = WindowsConfig(length=6, stride=6, split="leave_one_out", max_targets=1)
    windows = build_training_windows(frame, vocabulary, TASKS, AS_OF, config, seed=1)
    tests = windows.where("task = 'all' AND split = 'test'").collect()
    events = arrays(spark, EVENTS, days=0)
    periods = Periods.leave_one_out(events, events.of_task(None), train_includes_validation=False)
    assert dict(history(events, periods.truth_E)) == {
        row["window_id"].split("/")[2]: row["target_indices"] for row in tests
    }


def test_ranking_features_of_an_instant_are_blind_to_what_follows(spark: SparkSession) -> None:
    at = sorted(row[3] for row in IMPRESSION_ROWS)[len(IMPRESSION_ROWS) // 2]
    clean, poisoned = (
        {row["impression_id"]: row for row in build_ranking(spark, log).where(f"impression_ts <= '{at}'").collect()}
        for log in (RANKED_EVENTS, oracles.poisoned(RANKED_EVENTS, at))
    )
    assert len(clean) > len(IMPRESSION_ROWS) // 2 and clean == poisoned


def test_candidates_are_blind_to_what_follows(spark: SparkSession) -> None:
    ids = sorted(VOCABULARY)
    items = spark.createDataFrame([(i, "", "", [], {}, None, None, i == "i4", None) for i in ids], ITEMS.spark_schema())
    vocabulary = oracles.vocabulary_frame(spark, VOCABULARY)
    first, second = (
        excluded_items(oracles.events_frame(spark, log), items, vocabulary, TASKS, AS_OF, "click_videos").collect()
        for log in (EVENTS, POISONED)
    )
    assert sorted(first) == sorted(second) and first
