"""Sources: any column names and formats give the same rows; a wrong file is named, a wrong row is kept and counted."""

from __future__ import annotations

import json
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.errors import ConfigError, DataError, SchemaError
from precise_core.intake.cleaning import clean_events, clean_impressions, clean_items
from precise_core.intake.read import describe_source, read_source, source_fingerprint
from precise_core.intake.stock import modified_at
from precise_core.sources.config import (
    FilesSource,
    SyntheticSource,
)
from precise_core.sources.listing import sha256_of
from precise_core.sources.raw import items_of_events

NOW = datetime(2030, 1, 1, tzinfo=UTC)
# Names that break naive column references: dots, spaces, back-ticks, case, a leading digit.
USER, ITEM, TIME, SCENE, STARS = "Client.Id", "art`icle", "when it was", "1st SCENE", "stars"
ROWS = [
    {USER: "7", ITEM: "a,1", TIME: 1709294400, SCENE: "home", STARS: 4.5, "client.id": "not me"},
    {USER: "8", ITEM: 'quote"d', TIME: 1709294401, SCENE: "home", STARS: None, "client.id": "not me"},
    {USER: "🙂", ITEM: "a,1", TIME: 1709294402, SCENE: "live", STARS: 1.0, "client.id": "not me"},
]
EVENTS_SPEC: dict[str, Any] = {
    "user": USER,
    "item": ITEM,
    "time": TIME,
    "time_reading": {"unit": "seconds"},
    "scene": {"column": SCENE},
    "action": {"constant": "rate"},
    "value": STARS,
}


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".csv":
        pd.DataFrame(rows).to_csv(file, index=False)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        pd.DataFrame(rows).to_parquet(file, index=False)
    return file


def files_source(path: Path | str, **changes: Any) -> FilesSource:
    tables = {name: changes.pop(name) for name in ("items", "impressions") if name in changes}
    events = EVENTS_SPEC | {"path": str(path)} | changes
    return FilesSource.model_validate({"kind": "files", "events": events, **tables})


def micros(frame: DataFrame, name: str = "event_ts") -> list[int | None]:
    return [row[0] for row in frame.select(F.unix_micros(name)).collect()]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_events(spark: SparkSession, tmp_path: Path, suffix: str) -> None:
    rows = ROWS
    if suffix == ".parquet":  # Spark refuses Parquet columns that differ by case only
        rows = [{name: value for name, value in row.items() if name != "client.id"} for row in ROWS]
    raw = read_source(spark, files_source(write_rows(tmp_path / f"log{suffix}", rows))).events
    found = raw.select("user_id", "item_id", "scene", "action", F.unix_seconds("event_ts"), "value", "problem")
    assert sorted(tuple(row) for row in found.collect()) == [
        ("7", "a,1", "home", "rate", 1709294400, 4.5, None),
        ("8", 'quote"d', "home", "rate", 1709294401, None, None),
        ("🙂", "a,1", "live", "rate", 1709294402, 1.0, None),
    ]
    first = raw.where("user_id = '7'").collect()[0]
    assert str(json.loads(first["raw"])[USER]) == "7" and first["source_file"].endswith(f"log{suffix}")


def test_without_a_catalog_the_items_are_those_of_the_events(spark: SparkSession, tmp_path: Path) -> None:
    broken = [ROWS[0] | {USER: "", ITEM: "of nobody"}, ROWS[0] | {ITEM: ""}, ROWS[0] | {ITEM: "a\x07b"}]
    raw = read_source(spark, files_source(write_rows(tmp_path / "log.csv", [*ROWS, *broken])))
    assert raw.items is None and not raw.has_catalog
    events = clean_events(raw.events, None, not_after=NOW)
    items = clean_items(items_of_events(events.checked))
    titles = sorted((row["item_id"], row["title"]) for row in items.accepted.collect())
    assert titles == [("a,1", ""), ("of nobody", ""), ('quote"d', "")]
    assert [json.loads(row["raw"]) for row in items.rejected.collect()] == [{"item_id": "a\x07b"}]
    reasons = Counter(row["reason"] for row in events.rejected.collect())
    assert reasons == {"missing_user_id": 1, "missing_item_id": 1, "invalid_id": 1}
    first = events.rejected.where("reason = 'missing_user_id'").collect()[0]
    assert json.loads(first["raw"]) == json.loads(raw.events.where("item_id = 'of nobody'").collect()[0]["raw"])


@pytest.mark.parametrize(
    ("reading", "text", "expected"),
    [
        ({"unit": "seconds"}, "1709294400.25", "2024-03-01T12:00:00.250+00:00"),
        ({"unit": "milliseconds"}, "1709294400001", "2024-03-01T12:00:00.001+00:00"),
        ({"unit": "microseconds"}, "1709294400000001", "2024-03-01T12:00:00.000001+00:00"),
        ({"unit": "seconds"}, "99999999999999999999999999999999999999999", None),
        ({"unit": "seconds"}, "soon", None),
        ({"format": "dd.MM.yyyy HH:mm"}, "01.03.2024 12:00", "2024-03-01T12:00:00+00:00"),
        ({"format": "dd.MM.yyyy HH:mm"}, "2024-03-01", None),
        ({}, "2024-03-01T13:00:00+01:00", "2024-03-01T12:00:00+00:00"),
        ({}, "2024-03-01", "2024-03-01T00:00:00+00:00"),
        ({}, "12:30", None),  # Spark alone would read it as today
        ({}, "2024", None),
    ],
)
def test_times(spark: SparkSession, tmp_path: Path, reading: dict[str, str], text: str, expected: str | None) -> None:
    file = write_rows(tmp_path / "log.jsonl", [ROWS[0] | {TIME: text}])
    found = micros(read_source(spark, files_source(file, time_reading=reading)).events)
    wanted = expected and (datetime.fromisoformat(expected) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
        microseconds=1
    )
    assert found == [wanted]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_parquet_timestamps_of_every_unit(spark: SparkSession, tmp_path: Path, unit: str) -> None:
    moment = pd.Timestamp("2024-03-01T12:00:00")
    rows = {USER: ["7"], ITEM: ["a"], SCENE: ["s"], STARS: [1], TIME: pa.array([moment], pa.timestamp(unit))}
    pq.write_table(pa.table(rows), tmp_path / "log.parquet", version="2.6")
    assert micros(read_source(spark, files_source(tmp_path / "log.parquet")).events) == [1709294400_000000]


def test_an_impossible_time_pattern_is_refused_before_reading(spark: SparkSession, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "log.csv", ROWS)
    with pytest.raises(ConfigError, match="'bbb jj'"):
        read_source(spark, files_source(file, time_reading={"format": "bbb jj"}))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_missing_column_is_named_with_those_that_are_there(spark: SparkSession, tmp_path: Path, suffix: str) -> None:
    file = write_rows(tmp_path / f"log{suffix}", [{USER: "7", ITEM: "a", SCENE: "s", STARS: 1}])
    with pytest.raises(
        SchemaError, match=rf"log{suffix}: no column 'when it was'.*1st SCENE.*Client\.Id|Client\.Id.*1st"
    ):
        read_source(spark, files_source(file))


def test_missing_and_empty_files_are_named(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing/\*\.csv: no such file"):
        read_source(spark, files_source(tmp_path / "nothing" / "*.csv"))
    (tmp_path / "empty.csv").touch()
    with pytest.raises(DataError, match=r"empty\.csv: the file is empty"):
        read_source(spark, files_source(tmp_path / "empty.csv"))


def test_a_truncated_parquet_file_among_good_ones_is_named(spark: SparkSession, tmp_path: Path) -> None:
    rows = [{name: value for name, value in row.items() if name != "client.id"} for row in ROWS]
    for number in range(3):
        write_rows(tmp_path / f"part-{number}.parquet", rows)
    cut = tmp_path / "part-1.parquet"
    cut.write_bytes(cut.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"part-1\.parquet: not a Parquet file, or cut off"):
        read_source(spark, files_source(tmp_path / "*.parquet"))


def test_parquet_types_that_cannot_serve_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    good: dict[str, Any] = {USER: ["7"], ITEM: ["a"], SCENE: ["s"], STARS: [1.0], TIME: [1]}
    pq.write_table(pa.table(good | {USER: [{"id": 7}]}), tmp_path / "struct.parquet")
    with pytest.raises(SchemaError, match=r"struct\.parquet: column 'Client\.Id' is struct.*text or whole numbers"):
        read_source(spark, files_source(tmp_path / "struct.parquet"))
    pq.write_table(pa.table(good | {TIME: [["now"]]}), tmp_path / "list.parquet")
    with pytest.raises(SchemaError, match=r"list\.parquet: column 'when it was' is list.*a timestamp, a date"):
        read_source(spark, files_source(tmp_path / "list.parquet"))


def test_malformed_rows_are_rejected_and_not_lost(spark: SparkSession, tmp_path: Path) -> None:
    lines = ['{"u": "1", "i": "a", "t": 1}', '{"u": "2", "i": "a", "t', "[1, 2]", "", '{"u": "3", "i": "a", "t": "x"}']
    (tmp_path / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "log.csv").write_text("u,i,t,unused\n1,a,1,x\n2,a\n3,a,1,x,extra\n4,a,,x\n", encoding="utf-8")
    spec = {"user": "u", "item": "i", "time": "t", "scene": {"constant": "s"}, "value": None}
    for name, raw_rows in (("log.jsonl", 4), ("log.csv", 4)):
        tables = read_source(spark, files_source(tmp_path / name, **spec))
        events = clean_events(tables.events, tables.items, not_after=NOW)
        rejected = events.rejected.collect()
        assert [row["user_id"] for row in events.accepted.collect()] == ["1"]
        assert Counter(row["reason"] for row in rejected) == {"malformed_row": 2, "invalid_time": 1}
        assert 1 + len(rejected) == raw_rows == tables.events.count()
        problems = [row["problem"] for row in tables.events.select("user_id", "problem").collect()]
        assert problems.count("malformed_row") == 2
        assert any("2" in row["raw"] and row["reason"] == "malformed_row" for row in rejected)


def test_csv_files_with_another_order_of_columns(spark: SparkSession, tmp_path: Path) -> None:
    pd.DataFrame(ROWS[:1]).to_csv(tmp_path / "a.csv")  # with the unnamed index column that pandas writes
    write_rows(tmp_path / "b.csv", [dict(reversed(ROWS[1].items()))])
    raw = read_source(spark, files_source(tmp_path / "*.csv")).events
    assert sorted((row["user_id"], row["item_id"]) for row in raw.collect()) == [("7", "a,1"), ("8", 'quote"d')]
    (tmp_path / "c.csv").write_text("x,x\n1,2\n", encoding="utf-8")
    with pytest.raises(SchemaError, match="more than one column 'x'"):
        read_source(spark, files_source(tmp_path / "c.csv", user="x"))


def test_items_and_impressions_of_own_files(spark: SparkSession, tmp_path: Path) -> None:
    text = 'id,name,text,tags,brand,gone,new\na,"Two\nlines, ""quoted""",Long,"[""x"", ""y""]",B,no,2024-01-01\n'
    (tmp_path / "items.csv").write_text(text + "b,,,plain,,YES,never\nc,,,,,maybe,\n", encoding="utf-8")
    shown = [
        {"u": "7", "i": "a", "t": 1709294400, "y": label, "place": n}
        for n, label in enumerate([1, 0, "2", "yes", None])
    ]
    write_rows(tmp_path / "shown.jsonl", shown)
    items = {
        "path": str(tmp_path / "items.csv"),
        "item": "id",
        "title": "name",
        "description": "text",
        "categories": ["tags"],
        "attributes": ["brand"],
        "published": "new",
        "deleted": "gone",
    }
    impressions = {
        "path": str(tmp_path / "shown.jsonl"),
        "user": "u",
        "item": "i",
        "time": "t",
        "label": "y",
        "context": ["place"],
        "time_reading": {"unit": "seconds"},
    }
    source = files_source(write_rows(tmp_path / "log.csv", ROWS), items=items, impressions=impressions)
    tables = read_source(spark, source)
    raw = {row["item_id"]: row for row in tables.items.collect()}
    assert (raw["a"]["title"], raw["a"]["categories"]) == ('Two\nlines, "quoted"', ["x", "y"])
    assert (raw["a"]["attributes"], raw["a"]["is_deleted"], raw["a"]["problem"]) == ({"brand": "B"}, False, None)
    assert (raw["b"]["categories"], raw["b"]["is_deleted"], raw["b"]["problem"]) == (["plain"], True, "invalid_time")
    assert raw["c"]["problem"] == "invalid_flag"
    assert tables.impressions is not None
    cleaned = clean_impressions(tables.impressions, clean_items(tables.items).accepted, not_after=NOW)
    accepted = sorted((row["label"], row["context"]["place"]) for row in cleaned.accepted.collect())
    assert accepted == [(0, "1"), (1, "0"), (1, "3")]
    assert [row["reason"] for row in cleaned.rejected.collect()] == ["invalid_label"] * 2


def test_fingerprint_follows_content_and_configuration_only(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "log.csv", ROWS)
    before = source_fingerprint(files_source(file))
    file.touch()
    assert source_fingerprint(files_source(file)) == before
    assert source_fingerprint(files_source(file, action={"constant": "like"})) != before
    write_rows(file, ROWS[:2])
    assert source_fingerprint(files_source(file)) != before
    world = SyntheticSource(kind="synthetic")
    assert source_fingerprint(world) == source_fingerprint(SyntheticSource(kind="synthetic"))
    assert source_fingerprint(world) != source_fingerprint(world.model_copy(update={"seed": 18}))


def test_a_file_of_known_size_and_time_is_not_read_for_the_fingerprint(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "log.csv", ROWS)
    source, status = files_source(file), file.stat()
    taken = {"path": str(file), "size_bytes": status.st_size, "modified_at": modified_at(file)}
    known = [taken | {"checksum": sha256_of(file)}]
    assert source_fingerprint(source, known) == source_fingerprint(source)
    assert source_fingerprint(source, [taken | {"checksum": "what the manifest says"}]) != source_fingerprint(source)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    assert source_fingerprint(source, [taken | {"checksum": "no longer asked"}]) == source_fingerprint(source)


def test_the_description_names_the_files() -> None:
    assert "log.csv" in describe_source(files_source("data/log.csv"))
