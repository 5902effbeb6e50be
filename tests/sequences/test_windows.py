"""Training windows: exact against a brute-force version, fixed length, blind to what the split must not see."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from precise_core.sequences.config import WindowsConfig
from precise_core.sequences.windows import build_training_windows, is_held_out
from schemas import TRAINING_WINDOWS
from tests import oracles
from tests.oracles import AS_OF, TASKS

SEED = 3
EVENTS = oracles.random_events(2, users=25, items=30, count=900)
VOCABULARY = oracles.vocabulary_of(EVENTS, without="i5")
CONFIG = WindowsConfig(length=6, stride=4, validation_days=20, validation_user_share=0.4, max_targets=5)
CUT = AS_OF - timedelta(days=CONFIG.validation_days)


def build(spark: SparkSession, events: list[oracles.Event], config: WindowsConfig = CONFIG) -> DataFrame:
    vocabulary = oracles.vocabulary_frame(spark, VOCABULARY)
    return build_training_windows(oracles.events_frame(spark, events), vocabulary, TASKS, AS_OF, config, SEED)


def by_id(windows: DataFrame) -> dict[str, Any]:
    rows = windows.collect()
    values = {
        row["window_id"]: (
            row["item_indices"],
            row["event_ts"],
            row["length"],
            row["target_indices"],
            row["target_count"],
        )
        for row in rows
    }
    assert len(values) == len(rows), "window ids repeat"
    assert all(row["window_id"].startswith(f"{row['task']}/{row['split']}/") for row in rows)
    return values


def held_out_users(spark: SparkSession, share: float = CONFIG.validation_user_share) -> set[str]:
    users = spark.createDataFrame([(user,) for user in {event.user_id for event in EVENTS}], "user_id string")
    return {row["user_id"] for row in users.where(is_held_out(share, SEED)).collect()}


@pytest.mark.parametrize(("length", "stride"), [(6, 4), (5, 5), (8, 1)])
def test_equal_a_brute_force_build(spark: SparkSession, length: int, stride: int) -> None:
    config = CONFIG.model_copy(update={"length": length, "stride": stride})
    windows = build(spark, EVENTS, config)
    assert [(f.name, f.dataType.simpleString()) for f in windows.schema] == [
        (f.name, f.dataType.simpleString()) for f in TRAINING_WINDOWS.spark_schema()
    ]
    held_out = held_out_users(spark)
    expected = oracles.training_windows(
        EVENTS,
        VOCABULARY,
        held_out.__contains__,
        length=length,
        stride=stride,
        validation_days=config.validation_days,
        max_targets=config.max_targets,
    )
    assert by_id(windows) == expected
    assert any("/validation/" in window_id for window_id in expected)
    assert any(row[4] == config.max_targets for row in expected.values())


def test_events_at_or_after_as_of_change_nothing(spark: SparkSession) -> None:
    assert by_id(build(spark, oracles.poisoned(EVENTS, AS_OF))) == by_id(build(spark, EVENTS))


def test_truth_of_held_out_users_never_reaches_the_train_split_or_a_history(spark: SparkSession) -> None:
    held_out = held_out_users(spark)
    assert held_out and held_out != {event.user_id for event in EVENTS}
    only_held_out = [event for event in EVENTS if event.user_id in held_out]
    clean, poisoned = by_id(build(spark, only_held_out)), by_id(build(spark, oracles.poisoned(only_held_out, CUT)))
    train = {key: row for key, row in clean.items() if "/train/" in key}
    assert train and {key: row for key, row in poisoned.items() if "/train/" in key} == train
    histories = {key: row[:3] for key, row in clean.items() if "/validation/" in key}
    assert all(poisoned[key][:3] == row for key, row in histories.items() if key in poisoned)
    assert {row[3][0] for key, row in clean.items() if "/validation/" in key} - {0}


def test_the_held_out_share_is_about_what_was_asked_for(spark: SparkSession) -> None:
    users = spark.range(4000).selectExpr("cast(id as string) as user_id")
    held_out = users.where(is_held_out(0.1, SEED)).count()
    assert 300 < held_out < 500
    other_seed = users.where(is_held_out(0.1, SEED) & is_held_out(0.1, SEED + 1)).count()
    assert other_seed < 100  # about 40: another seed holds out other users


def test_a_window_without_two_instants_is_left_out(spark: SparkSession) -> None:
    def event(user: str, number: int, seconds: float) -> oracles.Event:
        ts = CUT - timedelta(days=1) + timedelta(seconds=seconds)
        return oracles.Event(ts, f"{user}{number}", user, "i1", "articles", "click")

    one, same_second = [event("one", 0, 0)], [event("same", n, n / 10) for n in range(3)]
    two = [event("two", n, n) for n in range(2)]
    windows = build(spark, [*one, *same_second, *two])
    assert {row["window_id"] for row in windows.where("split = 'train'").collect()} == {"all/train/two/0"}


LINE_ENDS = {"one": 1, "two": 2, "three": 3, "four": 4}


def with_short_lines(events: list[oracles.Event]) -> list[oracles.Event]:
    """The random log (ties in time, a user far longer than any window) and users of one to four events."""
    short = [
        oracles.Event(CUT + timedelta(hours=number // 2), f"{user}{number}", user, f"i{number}", "articles", "click")
        for user, count in LINE_ENDS.items()
        for number in range(count)
    ]
    return events + short


@pytest.mark.parametrize("train_includes_validation", [False, True])
@pytest.mark.parametrize(("length", "stride"), [(6, 4), (2, 1), (5, 5)])
def test_leave_one_out_equals_a_brute_force_split(
    spark: SparkSession, length: int, stride: int, train_includes_validation: bool
) -> None:
    config = WindowsConfig(
        length=length,
        stride=stride,
        split="leave_one_out",
        train_includes_validation=train_includes_validation,
        max_targets=1,
    )
    events = with_short_lines(EVENTS)
    windows = build(spark, oracles.poisoned(events, AS_OF), config)
    assert windows.schema.names == list(TRAINING_WINDOWS.column_names)
    expected = oracles.leave_one_out_windows(
        events,
        VOCABULARY,
        length=length,
        stride=stride,
        train_includes_validation=train_includes_validation,
    )
    assert by_id(windows) == expected
    held_out = {window_id.split("/")[2] for window_id in expected if window_id.startswith("all/test/")}
    assert held_out & set(LINE_ENDS) == {"three", "four"}
    assert "all/validation/three/0" in expected and expected["all/validation/three/0"][2] == 1
    assert any("/train/heavy/3" in window_id for window_id in expected)


@pytest.mark.parametrize("split", ["time", "leave_one_out"])
def test_users_with_few_events_of_a_task_are_not_trained_on(spark: SparkSession, split: str) -> None:
    config, events = CONFIG.model_copy(update={"split": split}), with_short_lines(EVENTS)
    whole = by_id(build(spark, events, config))
    held_out = held_out_users(spark) if split == "time" else set()
    known = [e for e in events if e.ts < (CUT if e.user_id in held_out else AS_OF)]
    counts = {line: len(of_line) for line, of_line in oracles.of_user_and_task(known).items()}

    def is_enough(window_id: str) -> bool:
        task, of_split, user, _ = window_id.split("/")
        return of_split != "train" or counts[user, task] >= 4

    expected = {window_id: row for window_id, row in whole.items() if is_enough(window_id)}
    assert 0 < len(expected) < len(whole)
    assert by_id(build(spark, events, config.model_copy(update={"min_events": 4}))) == expected


def test_leave_one_out_by_hand(spark: SparkSession) -> None:
    """i0 i1 | i2 | i3: trained on the first two, validated on i2, tested on i3 with i2 in the history."""
    config = WindowsConfig(length=6, stride=6, split="leave_one_out", max_targets=1)
    line = [oracles.Event(CUT + timedelta(hours=n), f"e{n}", "ann", f"i{n}", "articles", "click") for n in range(4)]
    found = {key: ([i for i in row[0] if i], row[3]) for key, row in by_id(build(spark, line, config)).items()}
    index = [VOCABULARY[f"i{n}"] for n in range(4)]
    assert found == {
        "all/train/ann/0": (index[:2], [0]),
        "all/validation/ann/0": (index[:2], [index[2]]),
        "all/test/ann/0": (index[:3], [index[3]]),
    }


def test_training_on_the_validation_item_needs_a_validation_item() -> None:
    with pytest.raises(ValueError, match="train_includes_validation needs split 'leave_one_out', it is 'time'"):
        WindowsConfig(train_includes_validation=True)
