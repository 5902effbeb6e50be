"""Rows added by key, against a dictionary: the last version stays, and a night that says nothing new writes nothing."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession

from precise_core.errors import SchemaError
from precise_core.warehouse.tables import Warehouse
from precise_core.warehouse.upsert import plan_upsert, replace_values, upsert
from schemas import EVENTS, EVENTS_REJECTED, ITEMS
from tests.validation.test_validation import event, frame_of, item

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)


def events_of(house: Warehouse) -> dict[str, dict[str, Any]]:
    rows = house.read_arrow(EVENTS, house.version(EVENTS)).to_pylist()
    assert len({row["event_id"] for row in rows}) == len(rows)
    return {row["event_id"]: row for row in rows}


def test_nights_of_new_repeated_and_corrected_events(spark: SparkSession, tmp_path: Path) -> None:
    draw, house, oracle = random.Random(7), Warehouse(str(tmp_path)), dict[str, dict[str, Any]]()
    for night in range(3):
        rows = {}
        for number in draw.sample(range(30), 12):
            when = NOON + timedelta(days=draw.randrange(3), seconds=draw.randrange(2))
            changes = {"event_ts": when, "event_date": when.date(), "value": draw.choice([None, 1.0])}
            row = event(number, **changes)
            rows[row["event_id"]] = oracle.get(row["event_id"], row) if draw.random() < 0.5 else row
        states = ["kept" if oracle.get(key) == row else "other" for key, row in rows.items()]
        oracle |= rows
        frame = frame_of(spark, EVENTS, list(rows.values()))
        done = upsert(house, spark, EVENTS, frame, run_id=f"night-{night}")
        assert events_of(house) == oracle
        assert done.kept == states.count("kept") and done.new + done.corrected == states.count("other")
        commits = DeltaTable(house.path(EVENTS)).history()
        assert commits[0]["userMetadata"] == f"night-{night}" and len(commits) == night + 2  # and the creation
        again = upsert(house, spark, EVENTS, frame, run_id="again")
        assert not again.changed and again.version == done.version and again.kept == 12


def test_the_place_of_the_file_makes_no_row_another_one_and_goes_with_a_correction(
    spark: SparkSession, tmp_path: Path
) -> None:
    house = Warehouse(str(tmp_path))
    for sequence, value, stored in ((1, 1.0, 1), (2, 1.0, 1), (3, 9.0, 3)):
        frame = frame_of(spark, EVENTS, [event(0, value=value, file_sequence=sequence)])
        assert upsert(house, spark, EVENTS, frame, run_id="r").kept == (stored != sequence)
        assert events_of(house)["e0"]["file_sequence"] == stored


def test_a_table_of_an_older_version_is_refused_before_anything_is_written(spark: SparkSession, tmp_path: Path) -> None:
    house, frame = Warehouse(str(tmp_path)), frame_of(spark, EVENTS, [event(0), event(1)])
    upsert(house, spark, EVENTS, frame, run_id="r")
    older = house.read_arrow(EVENTS, house.version(EVENTS)).drop_columns(["file_sequence"])
    write_deltalake(house.path(EVENTS), older, mode="overwrite", schema_mode="overwrite", partition_by=["event_date"])
    version = house.version(EVENTS)
    with pytest.raises(SchemaError, match=r"events: missing columns \['file_sequence'\]"):
        plan_upsert(house, spark, EVENTS, frame)
    with pytest.raises(SchemaError, match=r"events: missing columns \['file_sequence'\]"):
        house.write(spark, EVENTS, frame, run_id="r")
    assert house.version(EVENTS) == version


def test_of_two_versions_of_an_item_the_one_updated_later_stays(spark: SparkSession, tmp_path: Path) -> None:
    house = Warehouse(str(tmp_path))

    def night(title: str, updated: datetime | None, **changes: Any) -> str:
        frame = frame_of(spark, ITEMS, [item(1, title=title, updated_ts=updated, **changes)])
        upsert(house, spark, ITEMS, frame, run_id="r", newest_by="updated_ts")
        stored = house.read_arrow(ITEMS, house.version(ITEMS)).to_pylist()
        assert len(stored) == 1
        return str(stored[0]["title"])

    assert night("undated", None) == "undated"
    assert night("dated", NOON) == "dated"
    assert night("older", NOON - timedelta(days=1)) == "dated"
    assert night("same time, later file", NOON) == "same time, later file"
    # Without a time on one side, what arrives later is newer, be it an update or a deletion.
    assert night("gone", None, is_deleted=True, published_ts=NOON - timedelta(days=9)) == "gone"
    assert house.read_arrow(ITEMS, house.version(ITEMS))["is_deleted"].to_pylist() == [True]
    assert night("back", NOON - timedelta(days=2)) == "back"
    assert night("older again", NOON - timedelta(days=3)) == "back"


def test_rows_of_a_file_replace_themselves(spark: SparkSession, tmp_path: Path) -> None:
    house = Warehouse(str(tmp_path))

    def put(files: list[str], *raws: tuple[str, str]) -> int:
        rows = [
            {"raw": raw, "reason": "r", "source_file": file, "run_id": "x", "rejected_at": NOON} for file, raw in raws
        ]
        frame = frame_of(spark, EVENTS_REJECTED, rows)
        replace_values(house, spark, EVENTS_REJECTED, frame, "source_file", files, run_id="x")
        return house.version(EVENTS_REJECTED)

    first = put(["o'clock \\ a", "b"], ("o'clock \\ a", "1"), ("b", "2"), ("b", "2"))
    assert put(["b"], ("b", "2"), ("b", "2")) == first
    assert put(["c"]) == first
    put(["o'clock \\ a"])
    stored = house.read_arrow(EVENTS_REJECTED, house.version(EVENTS_REJECTED)).to_pylist()
    assert [row["source_file"] for row in stored] == ["b", "b"]
