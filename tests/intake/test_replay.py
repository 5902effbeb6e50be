"""Of two versions of a row the one of the file taken later passes, by what is stored alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from precise_core.intake.cleaning import Cleaned
from precise_core.intake.replay import Quarantine, judge_again
from precise_core.sources.config import EventsInput, ItemsInput, TableInput
from precise_core.warehouse.erasure_list import ErasureList
from schemas import EVENTS, ITEMS, Table
from tests.validation.test_validation import event, frame_of, item

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
EVENTS_SPEC = EventsInput.model_validate(
    {"path": "log.csv", "user": "u", "item": "i", "time": "t", "action": {"constant": "click"}, "event_id": "id"}
    | {"scene": {"constant": "shop"}}
)
ITEMS_SPEC = ItemsInput.model_validate({"path": "items.csv", "item": "i", "title": "name", "updated": "t"})
SEQUENCES = {"1.csv": 1, "2.csv": 2, "3.csv": 3}


def judged(spark: SparkSession, folder: Path, table: Table, stored: DataFrame, *rows: tuple[str, Any]) -> Cleaned:
    """The verdict on rows (file, cells) that waited for an item."""
    spec: TableInput = EVENTS_SPEC if table is EVENTS else ITEMS_SPEC
    waiting = [(json.dumps(cells), "unknown_item", file) for file, cells in rows]
    return judge_again(
        Quarantine(
            table=table,
            spec=spec,
            rejected=spark.createDataFrame(waiting, "raw string, reason string, source_file string"),
            stored=stored,
            items=None if table is ITEMS else spark.createDataFrame([("milk",), ("new",)], "item_id string"),
            sequences=SEQUENCES,
            erased=ErasureList.of(folder),
            not_after=NOON + timedelta(days=1),
        )
    )


def test_an_event_of_a_later_file_passes_and_keeps_its_place(spark: SparkSession, tmp_path: Path) -> None:
    def waiting(file: str, number: int, user: str = "alice") -> tuple[str, dict[str, str]]:
        return file, {"id": f"e{number}", "u": user, "i": "new", "t": NOON.isoformat()}

    stored = [(0, 1), (1, 3), (2, 2), (3, None), (4, 2), (5, 1), (6, 3)]
    frame = frame_of(spark, EVENTS, [event(number, file_sequence=sequence) for number, sequence in stored])
    found = judged(
        spark,
        tmp_path,
        EVENTS,
        frame,
        waiting("2.csv", 0),
        waiting("2.csv", 1),
        waiting("2.csv", 2),  # of one file: which came last is not known
        waiting("2.csv", 3),  # stored of a source without files
        waiting("a database", 4),
        waiting("2.csv", 5, "bob"),
        waiting("2.csv", 6, "bob"),
        waiting("1.csv", 7),
        waiting("3.csv", 7),
    )
    assert {(row["event_id"], row["item_id"], row["file_sequence"]) for row in found.accepted.collect()} == {
        ("e0", "new", 2),
        ("e7", "new", 3),
    }
    reasons = {(json.loads(row["raw"])["id"], row["source_file"]): row["reason"] for row in found.rejected.collect()}
    assert reasons.pop(("e5", "2.csv")) == "id_of_another_user"
    assert set(reasons) == {*((f"e{n}", "2.csv") for n in (1, 2, 3, 6)), ("e4", "a database"), ("e7", "1.csv")}
    assert set(reasons.values()) == {"duplicate_event"}


def test_of_an_item_the_time_of_its_update_comes_before_its_file(spark: SparkSession, tmp_path: Path) -> None:
    def waiting(file: str, number: int, updated: datetime | None) -> tuple[str, dict[str, Any]]:
        return file, {"i": f"i{number}", "name": "New", "t": updated and updated.isoformat()}

    stored = [item(number, updated_ts=time, file_sequence=2) for number, time in enumerate([NOON, NOON, NOON, None])]
    found = judged(
        spark,
        tmp_path,
        ITEMS,
        frame_of(spark, ITEMS, stored),
        waiting("1.csv", 0, NOON + timedelta(hours=1)),
        waiting("1.csv", 1, NOON),  # no time decides: by file
        waiting("3.csv", 2, None),
        waiting("1.csv", 3, NOON),
    )
    assert {row["item_id"] for row in found.accepted.collect()} == {"i0", "i2"}
    assert {row["reason"] for row in found.rejected.collect()} == {"duplicate_item"}
