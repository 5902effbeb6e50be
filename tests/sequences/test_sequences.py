"""Tasks, vocabulary and user sequences: exact against a brute-force version, blind to the future, bounded."""

from __future__ import annotations

import random
from datetime import timedelta
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.config.tasks import TaskConfig
from precise_core.errors import ConfigError
from precise_core.sequences.build import SequenceInputs, build_user_sequences
from precise_core.sequences.config import SequencesConfig
from precise_core.sequences.event_files import EventFiles
from precise_core.sequences.files import write_user_sequences
from precise_core.tasks import check_tasks, task_filters
from precise_core.text.vocabulary import grow_vocabulary
from schemas import ITEM_VOCABULARY, USER_SEQUENCES
from tests import oracles
from tests.oracles import AS_OF, TASKS

CONFIG = SequencesConfig(max_length=7, buckets=3)
EVENTS = oracles.random_events(1, users=12, items=20, count=600)
VOCABULARY = oracles.vocabulary_of(EVENTS, without="i3")


def build(spark: SparkSession, events: list[oracles.Event]) -> DataFrame:
    frame = oracles.events_frame(spark, events)
    return build_user_sequences(frame, oracles.vocabulary_frame(spark, VOCABULARY), TASKS, AS_OF, CONFIG)


def by_user_and_task(sequences: DataFrame) -> dict[tuple[str, str], Any]:
    micros = F.transform("event_ts", F.unix_micros).alias("micros")
    rows = sequences.select("*", micros, F.unix_micros("last_event_ts").alias("last_micros")).collect()
    return {(row["user_id"], row["task"]): row for row in rows}


def test_equal_a_brute_force_build_with_ties_in_time(spark: SparkSession) -> None:
    sequences = build(spark, EVENTS)
    assert [(f.name, f.dataType.simpleString()) for f in sequences.schema] == [
        (f.name, f.dataType.simpleString()) for f in USER_SEQUENCES.spark_schema()
    ]
    built = by_user_and_task(sequences)
    expected = oracles.user_sequences(EVENTS, VOCABULARY, CONFIG.max_length)
    assert {key: (row["item_indices"], row["scenes"], row["micros"]) for key, row in built.items()} == expected
    assert {key: row["length"] for key, row in built.items()} == {key: len(row[0]) for key, row in expected.items()}
    assert all(row["last_micros"] == row["micros"][-1] < oracles.micros(AS_OF) for row in built.values())
    assert len(expected["heavy", "all"][0]) == CONFIG.max_length  # the user with half of all events: last N, exactly
    assert {row["bucket"] for row in built.values()} <= {0, 1, 2}


def test_files_that_tasks_read_and_write_hold_the_same(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several tasks on both sides of the shuffle."""
    monkeypatch.setattr("precise_core.sequences.build._TASK_ROWS", 200)
    monkeypatch.setattr("precise_core.sequences.build._PART_ROWS", 100)
    monkeypatch.setattr("precise_core.sequences.event_files._SHARE_ROWS", 200)
    frame = oracles.events_frame(spark, EVENTS)
    frame.repartition(3, "event_id").write.parquet(str(tmp_path / "events"))
    files = [f"file://{file}" for file in sorted((tmp_path / "events").glob("*.parquet"))]
    vocabulary = oracles.vocabulary_frame(spark, VOCABULARY)
    inputs = SequenceInputs(
        events=frame,
        vocabulary=vocabulary,
        tasks=TASKS,
        as_of=AS_OF,
        config=CONFIG,
    )
    source = EventFiles(files, len(EVENTS), vocabulary.toArrow())
    written = write_user_sequences(inputs, source, str(tmp_path / "sequences"))
    rows = written.files.frame(spark)
    assert sorted(rows.collect()) == sorted(build(spark, EVENTS).collect())
    pairs = inputs.visible_events.select(reduce(add, (is_task.cast("int") for is_task in task_filters(TASKS).values())))
    assert written.events == pairs.agg(F.sum(pairs.columns[0])).collect()[0][0]
    assert written.events == rows.agg(F.sum("length")).collect()[0][0] + written.beyond


def test_neither_the_future_nor_the_order_of_rows_matters(spark: SparkSession) -> None:
    shuffled = oracles.poisoned(EVENTS, AS_OF)
    random.Random(5).shuffle(shuffled)
    first, second = by_user_and_task(build(spark, EVENTS)), by_user_and_task(build(spark, shuffled))
    assert first == second


def test_no_events_give_no_sequences(spark: SparkSession) -> None:
    late = [event for event in EVENTS if event.ts >= AS_OF]
    assert build(spark, late).count() == 0


def test_more_tasks_than_bits_are_refused(spark: SparkSession) -> None:
    tasks = {f"task_{number}": TaskConfig(action="click") for number in range(63)}
    frame = oracles.events_frame(spark, EVENTS[:5])
    with pytest.raises(ConfigError, match="sequences of 64 tasks are configured, at most 63 can be"):
        build_user_sequences(frame, oracles.vocabulary_frame(spark, VOCABULARY), tasks, AS_OF, CONFIG)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (TaskConfig(scene="vidoes"), r"tasks.t.scene 'vidoes': no event has it.*'articles', 'live', 'videos'"),
        (TaskConfig(action="buy"), r"tasks.t.action 'buy': no event has it.*'click', 'share'"),
    ],
)
def test_a_task_that_no_event_belongs_to_is_refused(spark: SparkSession, task: TaskConfig, message: str) -> None:
    events = oracles.events_frame(spark, EVENTS[:60])
    check_tasks(events, TASKS)
    with pytest.raises(ConfigError, match=message):
        check_tasks(events, {"t": task})


def test_a_pair_that_never_occurs_together_is_refused(spark: SparkSession) -> None:
    events = [event for event in EVENTS[:60] if (event.scene, event.action) != ("live", "share")]
    with pytest.raises(ConfigError, match="scene 'live' together with action 'share'"):
        check_tasks(oracles.events_frame(spark, events), {"t": TaskConfig(scene="live", action="share")})


def test_vocabulary_only_ever_grows(spark: SparkSession) -> None:
    def items(*ids: str) -> DataFrame:
        return spark.createDataFrame([(one,) for one in ids], "item_id string")

    first = grow_vocabulary(items("b", "c", "a"), None, AS_OF)
    assert first.columns == ITEM_VOCABULARY.column_names
    assert {row["item_id"]: row["item_index"] for row in first.collect()} == {"a": 2, "b": 3, "c": 4}
    # "a" left the catalog: its index is not reused.
    second = grow_vocabulary(items("d", "c", "b", "A", "d"), first, AS_OF + timedelta(days=1))
    rows = second.select("*", F.unix_micros("first_seen").alias("micros")).collect()
    assert {row["item_id"]: row["item_index"] for row in rows} == {"A": 5, "d": 6}
    assert {row["micros"] for row in rows} == {oracles.micros(AS_OF + timedelta(days=1))}
    assert grow_vocabulary(items("a", "b"), first, AS_OF).count() == 0
