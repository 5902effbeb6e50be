"""A night whose rows cannot be right is refused before anything is written: rejections, misread times, others' ids."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession

from precise_core.errors import NOT_KEPT, DataError
from precise_core.intake.cleaning import clean_events
from precise_core.intake.refusals import refuse_misread_times, refuse_rejections, time_hint
from precise_core.sources.config import EventsInput, TimeReading
from precise_core.warehouse.tables import Warehouse
from precise_core.warehouse.upsert import plan_upsert
from schemas import EVENTS
from schemas import columns as c
from tests.ingest_world import Shop, told
from tests.night import said
from tests.validation.test_validation import event, frame_of

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)


def spec(**reading: str) -> EventsInput:
    return EventsInput(path="log.csv", user="who", item="what", time="at", time_reading=TimeReading(**reading))


def checked(spark: SparkSession, *rows: tuple[str, str | None, Any]) -> DataFrame:
    """(item, reason, time as it came) as `clean_events` leaves them."""
    told = [(item, reason, json.dumps({"who": "ann", "what": item, "at": at})) for item, reason, at in rows]
    return spark.createDataFrame(told, f"{c.ITEM_ID} string, {c.REASON} string, {c.RAW} string")


def refusal(spark: SparkSession, rows: list[tuple[str, str | None, Any]], *catalog: str, **reading: str) -> DataError:
    reasons = pd.Series([reason for _, reason, _ in rows]).value_counts().to_dict()
    items = spark.createDataFrame([(item,) for item in catalog or ["a"]], f"{c.ITEM_ID} string")
    with pytest.raises(DataError) as refused:
        refuse_rejections(EVENTS, checked(spark, *rows), reasons, 0.9, spec(**reading), items)
    assert "ann" not in refused.value.stored and refused.value.stored.endswith(NOT_KEPT)
    return refused.value


@pytest.mark.parametrize(
    ("log", "catalog", "difference"),
    [
        (["786022008", "12"], ["0786022008", "0012", "x"], "leading zeros"),
        (["7.0"], ["7"], "`.0` at their end"),
        (["ab "], ["ab"], "blanks around them"),
        (["AB1"], ["ab1"], "upper and lower case"),
        ([" A7"], ["00a7.0"], "blanks around them and `.0` at their end and leading zeros and upper and lower case"),
    ],
)
def test_ids_that_nearly_meet_are_told_apart(
    spark: SparkSession, log: list[str], catalog: list[str], difference: str
) -> None:
    error = refusal(spark, [(item, "unknown_item", "x") for item in log], *catalog)
    assert f"events: {len(log)} of {len(log)} rows are rejected (unknown_item {len(log)}), more than" in error.stored
    assert f"the ids of log and catalog differ by {difference}: write them alike" in error.stored
    assert all(repr(item) in str(error) and item not in error.stored for item in (*log, *catalog) if item != "x")


def test_ids_that_have_nothing_in_common_are_shown(spark: SparkSession) -> None:
    error = refusal(spark, [("sku-1", "unknown_item", "x")], "red shoe")
    assert "are these the items of this log?" in error.stored
    assert "items of the log such as 'sku-1', of the catalog such as 'red shoe'" in str(error)


def test_a_night_is_refused_by_its_share_and_not_for_repetitions_or_erased_users(spark: SparkSession) -> None:
    def refuse(share: float = 0.9, **reasons: int) -> None:
        counted = {None if name == "accepted" else name: rows for name, rows in reasons.items()}
        refuse_rejections(EVENTS, checked(spark, ("a", "invalid_id", 1)), counted, share, spec(), None)

    refuse(accepted=1, duplicate_event=99)
    refuse(erased=5)
    refuse(accepted=1, invalid_id=9)
    refuse(share=1.0, invalid_id=3)
    for reasons in ({"accepted": 1, "invalid_id": 10}, {"invalid_id": 1}, {"erased": 99, "missing_user_id": 1}):
        with pytest.raises(DataError, match="rows are rejected"):
            refuse(**reasons)
    with pytest.raises(DataError, match=r"2 of 3 rows are rejected \(invalid_id 2\), more than .*share 0.5"):
        refuse(share=0.5, accepted=1, invalid_id=2)


UNITS = {"seconds": 1, "milliseconds": 1000, "microseconds": 10**6, "nanoseconds": 10**9}


def test_the_unit_of_numbers_is_told_by_their_size() -> None:
    for unit, per_second in UNITS.items():
        for year in (1990, 2024, 2099):
            seconds = datetime(year, 6, 1, tzinfo=UTC).timestamp()
            values = [str(round(seconds * per_second)), f"{seconds * per_second:.1f}"]
            for used in (None, *[name for name in UNITS if name not in (unit, "nanoseconds")]):
                hint = time_hint(values, TimeReading.model_validate({"unit": used}))
                assert hint.startswith(f"they look like {unit}"), (unit, used, year)
                assert ("divide them by 1,000" if unit == "nanoseconds" else f"{{unit: {unit}}}") in hint
    assert "ISO 8601" in time_hint(["01/03/2024"], TimeReading())
    assert time_hint(["01/03/2024"], TimeReading(format="yyyy")) == "" == time_hint([], TimeReading())
    assert time_hint(["7"], TimeReading()) == "" == time_hint(["-1709294400"], TimeReading(unit="seconds"))


def test_a_log_in_epoch_seconds_without_a_unit_is_refused_with_the_unit(spark: SparkSession) -> None:
    error = refusal(spark, [("a", "invalid_time", 1709294400 + row) for row in range(5)])
    assert "(invalid_time 5)" in error.stored and "set `time_reading: {unit: seconds}`" in error.stored
    assert "times such as '1709294400'" in str(error)
    error = refusal(spark, [("a", "invalid_time", 1709294400123)], unit="seconds")
    assert "they look like milliseconds, not seconds" in error.stored


@pytest.mark.parametrize("written", ["seconds", "milliseconds", "microseconds"])
@pytest.mark.parametrize("read", ["milliseconds", "microseconds", "nanoseconds"])
def test_times_that_end_in_january_1970_are_refused(written: str, read: str) -> None:
    numbers = [round(NOON.timestamp() * UNITS[written]), round((NOON.timestamp() + 86_399.5) * UNITS[written])]
    first, last = (number * 10**6 // UNITS[read] for number in numbers)
    reading = {} if read == "nanoseconds" else {"unit": read}
    if UNITS[written] >= UNITS[read]:
        return refuse_misread_times(EVENTS, first, last, spec(**reading))
    with pytest.raises(DataError, match=f"between 1970-.* look like {written} that were read as {read}"):
        refuse_misread_times(EVENTS, first, last, spec(**reading))
    return None


def test_old_times_and_an_order_without_a_clock_are_no_misreading() -> None:
    old = round(datetime(1985, 1, 1, tzinfo=UTC).timestamp()) * 10**6
    for first, last in ((old, old + 10**12), (10**6, 3 * 10**6), (1709294, NOON.timestamp() * 10**6)):
        for reading in ({}, {"unit": "milliseconds"}):
            refuse_misread_times(EVENTS, int(first), int(last), spec(**reading))
    refuse_misread_times(EVENTS, 1709294, 1709295, None)


def raw_events(spark: SparkSession, *rows: tuple[str, str, str]) -> DataFrame:
    """(event_id, user, file) in the raw shape; files are taken in the order of their names."""
    told = [(key, user, "a", "s", "x", NOON, None, int(file), None, f"{key} {user}", file) for key, user, file in rows]
    types = "event_id string, user_id string, item_id string, scene string, action string, event_ts timestamp,"
    return spark.createDataFrame(
        told, f"{types} value double, file_sequence bigint, problem string, raw string, source_file string"
    )


def test_of_two_users_with_one_id_none_is_called_a_duplicate(spark: SparkSession) -> None:
    raw = raw_events(spark, ("1", "ann", "1"), ("1", "bob", "2"), ("2", "cat", "1"), ("2", "cat", "2"))
    items = spark.createDataFrame([("a",)], f"{c.ITEM_ID} string")

    def reasons(**flags: bool) -> dict[tuple[str, str], str | None]:
        rows = clean_events(raw, items, not_after=NOON + timedelta(days=1), **flags).checked.collect()
        return {(row["user_id"], row["source_file"]): row["reason"] for row in rows}

    expected = {
        ("bob", "2"): None,
        ("ann", "1"): "id_of_another_user",
        ("cat", "2"): None,
        ("cat", "1"): "duplicate_event",
    }
    assert reasons() == expected
    assert reasons(may_reassign=True) == expected | {("ann", "1"): "duplicate_event"}


def test_a_plan_knows_the_rows_of_other_users_and_writes_nothing(spark: SparkSession, tmp_path: Path) -> None:
    house = Warehouse(str(tmp_path))
    first = plan_upsert(house, spark, EVENTS, frame_of(spark, EVENTS, [event(number) for number in range(3)]))
    assert first.counts == {"new": 3} and not house.exists(EVENTS)
    assert first.commit("r").new == 3
    tonight = [event(0), event(1, user_id="somebody else"), event(2, value=9.0), event(3)]
    plan = plan_upsert(house, spark, EVENTS, frame_of(spark, EVENTS, tonight))
    before = house.version(EVENTS)
    assert plan.counts == {"kept": 1, "reassigned": 1, "corrected": 1, "new": 1} and house.version(EVENTS) == before
    done = plan.commit("r")
    assert (done.new, done.corrected, done.kept) == (1, 2, 1)


@pytest.mark.faults
def test_row_numbers_as_ids_destroy_no_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = Shop(tmp_path)
    row = ("a", "2024-03-01T08:00:00Z", "click")
    shop.day("1", ("1", "u1", *row), ("2", "u2", *row), ("3", "u5", *row))
    assert shop.run("ingest") == 0
    before, versions = shop.events(), [shop.version(name) for name in ("items", "events", "source_files")]
    shop.catalog(("a", "Apple, renamed", ""))
    shop.day("2", ("1", "u3", *row), ("2", "u4", *row), ("3", "u5", "b", *row[1:]))
    assert shop.run("ingest") == 2
    out = said(capsys)
    assert "events: 2 rows have the event_id of a row of another user that was taken before, such as '" in out
    assert shop.events() == before
    assert versions == [shop.version(name) for name in ("items", "events", "source_files")]
    assert f"before, such as {NOT_KEPT}; nothing was taken" in shop.last_run()["error"]
    assert shop.run("ingest", "--reassign") == 0
    assert {key: user for key, (user, *_) in shop.events().items()} == {"1": "u3", "2": "u4", "3": "u5"}


def test_nothing_is_registered_of_a_night_without_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = Shop(tmp_path)
    shop.day("1", *[(str(n), f"user-{n}", "0a", "2024-03-01T08:00:00Z", "click") for n in range(4)])
    assert shop.run("ingest") == 2
    assert told(capsys, "events: 4 of 4 rows are rejected (unknown_item 4)")
    error = shop.last_run()["error"]
    assert "differ by leading zeros" in error and "user-" not in error
    assert {path.name for path in (shop.warehouse / "tables").iterdir()} == {"runs"}
    shop.catalog(("0a", "Apple", ""))
    assert shop.run("ingest") == 0 and len(shop.events()) == 4  # the same file, once the catalog knows its items
    shop.day("2", *[(f"x{n}", "bob", "0a", "1709294400", "click") for n in range(3)])
    assert shop.run("ingest") == 2
    assert told(capsys, "set `time_reading: {unit: seconds}`; times such as '1709294400'")
    shop.spec["time_reading"] = {"unit": "milliseconds"}
    assert shop.run("ingest") == 2
    assert told(capsys, "they look like seconds that were read as milliseconds")
    assert len(shop.events()) == 4 and len(shop.rows("source_files")) == 2


@pytest.mark.faults
def test_ids_that_begin_anew_within_one_night_are_refused_and_a_quarantine_gives_nobody_elses(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    row = ("2024-03-01T08:00:00Z", "click")
    shop.day("1", ("1", "u1", "a", *row))
    shop.day("2", ("1", "u3", "a", *row))
    assert shop.run("ingest") == 2
    assert "1 rows have the event_id of a row of another user that is read tonight, too" in shop.last_run()["error"]
    (shop.folder / "log" / "2.csv").unlink()
    assert shop.run("ingest") == 0
    shop.day("2", ("1", "u3", "later", *row), ("2", "u4", "a", *row))
    assert shop.run("ingest") == 0 and shop.reasons() == {"unknown_item": 1}
    shop.catalog(("later", "Later", ""))
    assert shop.run("ingest") == 0 and shop.run("replay_rejected") == 0
    assert shop.reasons() == {"id_of_another_user": 1}
    assert {key: user for key, (user, *_) in shop.events().items()} == {"1": "u1", "2": "u4"}
