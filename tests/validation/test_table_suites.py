"""Tables of features, products and bookkeeping: good rows pass, each defect is named; days are compared."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from precise_core.config.gates import GatesConfig
from precise_core.warehouse.tables import Warehouse
from schemas import (
    EVENTS,
    ITEM_TOKENS,
    ITEM_VOCABULARY,
    PAIR_SCORES,
    RANKING_FEATURES,
    RUNS,
    TABLES,
    TRAINING_WINDOWS,
    VALIDATION_RESULTS,
    Table,
)
from tests.ingest_world import told
from tests.night import copy_of, run
from tests.validation.test_validation import broken, event, frame_of
from validation.gate import gate
from validation.volume import gate_volume

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
Row = dict[str, Any]

VOCABULARY: Row = {"item_id": "a", "item_index": 2, "first_seen": NOON}
TOKENS: Row = {"item_id": "a", "item_index": 2, "token_ids": [5, 0], "token_count": 1, "text_hash": "h"}
TOKENS |= {"tokenizer_id": "t"}
WINDOW: Row = {"window_id": "w", "task": "all", "split": "train", "item_indices": [0, 3, 2], "event_ts": [0, 7, 9]}
WINDOW |= {"length": 2, "target_indices": [0], "target_count": 0}
FEATURES: Row = {"impression_id": "i", "user_id": "u", "item_id": "a", "impression_ts": NOON, "split": "test"}
FEATURES |= {"label": 1, "sparse_features": {}, "dense_features": {"x": 1.0}, "user_embedding": [1.0]}
FEATURES |= {"item_embedding": [1.0], "precise_score": 1.0, "model_version": "v", "task": "all", "vector_space": "v"}
SCORE: Row = {"user_id": "u", "item_id": "a", "model_version": "v", "score": 0.5, "as_of": NOON}
RUN: Row = dict.fromkeys(RUNS.column_names, "x") | {"status": "succeeded", "started_at": NOON, "seconds": 1.0}
RUN |= {name: {} for name in ("input_versions", "output_versions", "table_ids", "metrics", "artefacts")}
RUN |= {"rows_in": 3, "rows_out": 2, "rows_rejected": 1, "error": None}

PARAMETERS: dict[str, Row] = {"item_tokens": {"max_tokens": 2}, "training_windows": {"length": 3}}
DEFECTS: list[tuple[Table, Row, dict[str, Any], set[str]]] = [
    (ITEM_VOCABULARY, VOCABULARY, {"item_id": "b"}, {"rows_with_this_index"}),  # the same index again
    (ITEM_VOCABULARY, VOCABULARY, {"item_id": "b", "item_index": 1}, {"item_index"}),
    (ITEM_TOKENS, TOKENS, {"item_id": "b", "token_ids": [5]}, {"width"}),
    (ITEM_TOKENS, TOKENS, {"item_id": "b", "token_count": 3}, {"has_all_tokens"}),
    (TRAINING_WINDOWS, WINDOW, {"window_id": "v", "item_indices": [3, 2, 0]}, {"is_left_padded"}),
    (TRAINING_WINDOWS, WINDOW, {"window_id": "v", "event_ts": [0, 9, 7]}, {"is_in_time_order"}),
    (TRAINING_WINDOWS, WINDOW, {"window_id": "v", "target_count": 2}, {"targets_fit"}),
    (RANKING_FEATURES, FEATURES, {"impression_id": "j", "precise_score": None}, {"score_is_there"}),
    (RANKING_FEATURES, FEATURES, {"impression_id": "j", "dense_features": {"x": nan}}, {"dense_is_finite"}),
    (RANKING_FEATURES, FEATURES, {"impression_id": "j", "item_embedding": [1.0, 2.0]}, {"vectors_are_alike"}),
    (PAIR_SCORES, SCORE, {"user_id": "v", "score": inf}, {"score"}),
    (PAIR_SCORES, SCORE, {}, {"rows_with_this_key"}),
    (RUNS, RUN, {"run_id": "y", "rows_out": 1}, {"rows_add_up"}),
]


@pytest.mark.parametrize(("table", "row", "change", "columns"), DEFECTS)
def test_each_defect_is_named(spark: SparkSession, table: Table, row: Row, change: Row, columns: set[str]) -> None:
    frame = frame_of(spark, table, [row, row | change])
    found = gate(table, frame, run_id="r", **PARAMETERS.get(table.name, {}))
    assert {column for _, column, _ in broken(found)} == columns  # and nothing is held against the good row


def test_levels_are_configured_by_the_names_of_the_results(spark: SparkSession) -> None:
    result = gate(PAIR_SCORES, frame_of(spark, PAIR_SCORES, [SCORE, SCORE]), run_id="r")
    config = GatesConfig(levels={"pair_scores/expect_column_values_to_be_between/rows_with_this_key": "warn"})
    milder = result.with_levels(config.levels)
    assert result.failures and not milder.failures and milder.warnings
    assert {r["level"] for r in milder.records if r["column"] == "rows_with_this_key"} == {"warn"}
    with pytest.raises(ValueError, match="table/expectation/column"):
        GatesConfig(levels={"scores/x/y": "warn"})


def test_a_day_unlike_the_days_before_it_is_warned_of(spark: SparkSession) -> None:
    rows = []
    for day, (clicks, shares) in enumerate([(6, 2), (5, 3), (6, 2), (30, 2), (0, 6)]):
        for number in range(clicks + shares):
            when = NOON + timedelta(days=day, seconds=number)
            action = "click" if number < clicks else "share"
            rows.append(event(day * 100 + number, event_ts=when, event_date=when.date(), action=action))
    limits = {"newest_days": 3, "trailing_days": 3, "largest_volume_ratio": 3.0, "smallest_mix_overlap": 0.5}
    found = gate_volume(frame_of(spark, EVENTS, rows), run_id="r", **limits)
    assert broken(found) == {
        ("expect_column_values_to_be_between", "volume_ratio", 1),  # 32 events after 8, 8 and 8
        ("expect_column_values_to_be_between", "mix_overlap", 1),  # nobody clicks on the last day
    }
    assert not found.failures and {r["part"] for r in found.records} == {"by day"}
    assert gate_volume(frame_of(spark, EVENTS, rows[:24]), run_id="r", **limits).warnings == []
    alone = frame_of(spark, EVENTS, [event(0, event_date=date(2024, 3, 1))])
    assert gate_volume(alone, run_id="r", **limits).warnings == []  # no day before it: nothing to compare


def test_every_table_of_a_night_is_checked_and_a_broken_reference_fails(
    night: Path, tmp_path: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    house = Warehouse(str(warehouse))
    there = {table.name for table in TABLES if house.exists(table)}
    assert run("validate_tables", warehouse) == 0
    results = house.read_arrow(VALIDATION_RESULTS, house.version(VALIDATION_RESULTS)).to_pandas()
    newest = results[results["run_id"].str.startswith("validate_tables")]
    assert set(newest["table_name"]) == there
    assert set(newest.loc[~newest["success"], "level"]) <= {"warn"}
    users = house.read_arrow(EVENTS, house.version(EVENTS), ["user_id"])["user_id"].unique().to_pylist()
    assert not set(users) & set(newest.astype(str).to_numpy().ravel())

    gone = spark.read.format("delta").load(house.path(ITEM_VOCABULARY)).orderBy("item_index").limit(1)
    spark.sql(f"DELETE FROM delta.`{house.path(ITEM_VOCABULARY)}` WHERE item_index = {gone.first()['item_index']}")
    assert run("validate_tables", warehouse, "--table", "item_tokens", "--table", "item_vocabulary") == 2
    assert told(capsys, "item_index is in item_vocabulary")
    assert run("embed_items", warehouse) == 2  # the checkpoint's rows mean other items now
    assert told(capsys, "1 of its items have another index in item_vocabulary")
