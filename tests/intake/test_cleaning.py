"""Cleaning: every row is accepted or rejected with the first rule it broke, duplicates are stored once."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.intake import cleaning
from precise_core.intake.cleaning import Cleaned, clean_events, clean_impressions, clean_items
from precise_core.sources.raw import PROBLEM, RAW_EVENT_TYPES, RAW_IMPRESSION_TYPES, RAW_ITEM_TYPES
from schemas import EVENTS, IMPRESSIONS, ITEMS, Table
from schemas import columns as c

NOW = datetime(2024, 3, 1, tzinfo=UTC)
YESTERDAY = NOW - timedelta(days=1)
_TAIL = {PROBLEM: "string", "raw": "string", "source_file": "string"}


def raw_table(spark: SparkSession, types: dict[str, str], rows: Sequence[dict[str, Any]]) -> DataFrame:
    """Raw rows; `raw` says what came, `source_file` is always the same."""
    schema = ", ".join(f"`{name}` {kind}" for name, kind in {**types, **_TAIL}.items())
    filled = [
        (*[row.get(name) for name in types], row.get(PROBLEM), json.dumps(row, default=str), "log.csv") for row in rows
    ]
    return spark.createDataFrame(filled, schema)


def event(**changes: Any) -> dict[str, Any]:
    row = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "scene": "s", "action": "click", "event_ts": YESTERDAY}
    return row | changes


def items_table(spark: SparkSession, *ids: str) -> DataFrame:
    return spark.createDataFrame([(one,) for one in ids], "item_id string")


def cleaned_events(spark: SparkSession, rows: Sequence[dict[str, Any]]) -> Cleaned:
    return clean_events(raw_table(spark, RAW_EVENT_TYPES, rows), items_table(spark, "i1", "i2"), not_after=NOW)


def assert_has_columns_of(frame: DataFrame, table: Table) -> None:
    assert [(f.name, f.dataType.simpleString()) for f in frame.schema] == [
        (f.name, f.dataType.simpleString()) for f in table.spark_schema()
    ]


# One broken rule per row; the reason it must be given.
REJECTIONS: list[tuple[dict[str, Any], str]] = [
    ({"user_id": None}, "missing_user_id"),
    ({"user_id": " \t"}, "missing_user_id"),
    ({"item_id": ""}, "missing_item_id"),
    ({"item_id": "i9"}, "unknown_item"),
    ({"item_id": "i9", "scene": None}, "unknown_item"),
    ({"scene": None}, "missing_scene"),
    ({"action": " "}, "missing_action"),
    ({"event_ts": None}, "invalid_time"),
    ({"event_ts": datetime(1970, 1, 1, tzinfo=UTC)}, "invalid_time"),
    ({"event_ts": NOW + timedelta(microseconds=1)}, "future_time"),
    ({"value": float("nan")}, "invalid_value"),
    ({"value": float("-inf")}, "invalid_value"),
    ({"user_id": "u\x001"}, "invalid_id"),
    ({"user_id": "u" * 513}, "invalid_id"),
    ({"user_id": "(anybody)"}, "invalid_id"),
    ({PROBLEM: "malformed_row", "user_id": None}, "malformed_row"),
]


def test_each_broken_rule_has_its_reason_and_shows_what_came(spark: SparkSession) -> None:
    rows = [event(event_id=f"e{number}", **changes) for number, (changes, _) in enumerate(REJECTIONS)]
    cleaned = cleaned_events(spark, [*rows, event(event_id="good", event_ts=NOW)])
    rejected = {json.loads(row["raw"])["event_id"]: row for row in cleaned.rejected.collect()}
    assert {key: row["reason"] for key, row in rejected.items()} == {
        f"e{number}": reason for number, (_, reason) in enumerate(REJECTIONS)
    }
    assert {row["source_file"] for row in rejected.values()} == {"log.csv"}
    assert cleaned.rejected.columns == ["raw", "reason", "source_file"]
    accepted = cleaned.accepted.select("*", F.unix_micros("event_ts").alias("micros")).collect()
    assert [(row["event_id"], row["micros"] / 1e6, str(row["event_date"])) for row in accepted] == [
        ("good", NOW.timestamp(), "2024-03-01")
    ]
    assert_has_columns_of(cleaned.accepted, EVENTS)


def test_text_that_is_not_utf8_is_refused_as_an_id_and_repaired_as_text(spark: SparkSession) -> None:
    surrogate = F.unhex(F.lit("61EDA080")).cast("string")  # "a" and a lone surrogate, as broken writers store it
    events = raw_table(spark, RAW_EVENT_TYPES, [event()]).withColumn("user_id", surrogate)
    rejected = clean_events(events, items_table(spark, "i1"), not_after=NOW).rejected.collect()
    assert [row["reason"] for row in rejected] == ["invalid_id"]
    items = raw_table(spark, RAW_ITEM_TYPES, [{"item_id": "i1"}]).withColumn("title", surrogate)
    title = clean_items(items).accepted.collect()[0]["title"]
    assert title.startswith("a") and title.encode("utf-8").decode("utf-8") == title


def test_duplicates_are_stored_once_whatever_the_order_of_rows(spark: SparkSession) -> None:
    rows = [
        event(event_id="same", item_id="i2"),
        event(event_id="same", event_ts=YESTERDAY - timedelta(days=1)),  # the earliest stays
        event(event_id="same"),
        event(event_id="same", user_id=None),  # breaks a rule: must not take the place of a valid row
        event(event_id=None),
        event(event_id=None),  # says exactly the same: one event
        event(event_id=" ", value=2.0),
    ]
    results = []
    for order in (rows, rows[::-1]):
        cleaned = cleaned_events(spark, order)
        accepted = [(row["event_id"], row["item_id"], row["event_date"]) for row in cleaned.accepted.collect()]
        results.append((sorted(accepted), Counter(row["reason"] for row in cleaned.rejected.collect())))
    assert results[0] == results[1]
    accepted, reasons = results[0]
    assert reasons == {"duplicate_event": 3, "missing_user_id": 1}
    assert len(accepted) == 3
    assert [row for row in accepted if row[0] == "same"] == [("same", "i1", (YESTERDAY - timedelta(days=1)).date())]
    assert all(len(row[0]) == 64 for row in accepted if row[0] != "same")


_IDS = st.sampled_from([None, "", "  ", "u1", "u2", "i1", "i2", "i9", "\x00", "🙂", "مرحبا"])
_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "event_id": st.sampled_from([None, "", "e1", "e2", "e3"]),
            "user_id": _IDS,
            "item_id": st.one_of(st.sampled_from(["i1", "i2"]), _IDS),
            "scene": st.sampled_from(["s", "s", None, " "]),
            "action": st.sampled_from(["click", "click", ""]),
            "event_ts": st.sampled_from([None, YESTERDAY, NOW, NOW + timedelta(days=400)]),
            "value": st.sampled_from([None, 1.0, float("nan")]),
            PROBLEM: st.sampled_from([None, None, None, "malformed_row"]),
        }
    ),
    max_size=30,
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=_ROWS)
def test_no_row_is_lost_or_made_up(spark: SparkSession, rows: list[dict[str, Any]]) -> None:
    cleaned = cleaned_events(spark, rows)
    accepted, rejected = cleaned.accepted.collect(), cleaned.rejected.collect()
    assert len(accepted) + len(rejected) == len(rows)
    assert len({row["event_id"] for row in accepted}) == len(accepted)
    assert all(row["reason"] for row in rejected)
    for row in accepted:
        assert row["user_id"].strip() and row["item_id"] in {"i1", "i2"} and row["event_ts"] is not None


def test_items_keep_the_latest_version_and_text_that_is_safe(spark: SparkSession) -> None:
    rows: list[dict[str, Any]] = [
        {"item_id": "i1", "title": "old", "updated_ts": YESTERDAY - timedelta(days=2)},
        {"item_id": "i1", "title": "new", "updated_ts": YESTERDAY},
        {"item_id": "i1", "title": "no date"},
        {
            "item_id": "i2",
            "title": "nul\x00 🙂 مرحبا",
            "description": "x" * 10_000_000,
            "categories": ["a", None, " ", "b"],
            "attributes": {"brand": "b", "size": None},
            "is_deleted": True,
        },
        {"item_id": " "},
        {"item_id": "i3", PROBLEM: "invalid_time"},
        {"item_id": "i4"},
    ]
    cleaned = clean_items(raw_table(spark, RAW_ITEM_TYPES, rows))
    assert_has_columns_of(cleaned.accepted, ITEMS)
    items = {row["item_id"]: row for row in cleaned.accepted.collect()}
    assert set(items) == {"i1", "i2", "i4"}
    assert items["i1"]["title"] == "new"
    assert items["i2"]["title"] == "nul 🙂 مرحبا"
    assert len(items["i2"]["description"]) == cleaning.MAX_TEXT_CHARS
    assert (items["i2"]["categories"], items["i2"]["attributes"]) == (["a", "b"], {"brand": "b"})
    assert items["i2"]["is_deleted"] and not items["i4"]["is_deleted"]
    assert (items["i4"]["title"], items["i4"]["categories"], items["i4"]["attributes"]) == ("", [], {})
    reasons = Counter(row["reason"] for row in cleaned.rejected.collect())
    assert reasons == {"duplicate_item": 2, "missing_item_id": 1, "invalid_time": 1}


def test_of_items_of_several_files_the_one_stays_that_file_after_file_would_leave(spark: SparkSession) -> None:
    draw, rows, oracle = random.Random(5), list[dict[str, Any]](), dict[str, str]()
    for number in range(60):
        stored: dict[str, Any] | None = None
        for file in range(4):
            updated = draw.choice([None, *(NOW + timedelta(hours=hour) for hour in range(3))])
            row = {"item_id": f"i{number}", "title": f"of file {file}", "updated_ts": updated, c.FILE_SEQUENCE: file}
            rows.append(row)
            is_older = stored is not None and updated and stored["updated_ts"] and updated < stored["updated_ts"]
            stored = stored if is_older else row
        assert stored is not None
        oracle[f"i{number}"] = stored["title"]
    draw.shuffle(rows)
    accepted = clean_items(raw_table(spark, RAW_ITEM_TYPES, rows)).accepted
    assert {row["item_id"]: row["title"] for row in accepted.collect()} == oracle


def test_impressions_need_a_label_and_are_stored_once(spark: SparkSession) -> None:
    good = {"user_id": "u1", "item_id": "i1", "impression_ts": YESTERDAY, "label": 1, "context": {"a": "1", "b": None}}
    rows = [
        good,
        good,  # no id and the same content: one impression
        good | {"impression_id": "p1"},
        good | {"impression_id": "p2", "label": None},
        good | {"impression_id": "p3", "label": 2},
        good | {"impression_id": "p4", "item_id": "i9"},
        good | {"impression_id": "p5", "impression_ts": NOW + timedelta(seconds=1)},
    ]
    raw = raw_table(spark, RAW_IMPRESSION_TYPES, rows)
    cleaned = clean_impressions(raw, items_table(spark, "i1"), not_after=NOW)
    assert_has_columns_of(cleaned.accepted, IMPRESSIONS)
    accepted = cleaned.accepted.collect()
    assert len(accepted) == 2 and all(row["context"] == {"a": "1"} for row in accepted)
    reasons = Counter(row["reason"] for row in cleaned.rejected.collect())
    assert reasons == {"duplicate_impression": 1, "invalid_label": 2, "unknown_item": 1, "future_time": 1}
