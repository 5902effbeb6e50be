"""Warehouses of earlier versions kept a folder of `events` per day: they are laid out anew once, and nobody notices."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from delta.tables import DeltaTable as SparkDeltaTable
from deltalake import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from precise_core import consume
from precise_core.operations.erasure import erase
from precise_core.warehouse.care import compact, content_changed, small_files
from precise_core.warehouse.changes import net_changes
from precise_core.warehouse.config import TablesConfig
from precise_core.warehouse.layout import has_declared_layout, laid_out, lay_out_anew
from precise_core.warehouse.session import jobs_so_far
from precise_core.warehouse.tables import TABLE_PROPERTIES, Warehouse
from precise_core.warehouse.upsert import upsert
from schemas import EVENTS, EVENTS_REJECTED, ITEMS, USER_SEQUENCES, Table
from schemas import columns as c
from tests.ingest_world import Shop, told
from tests.sequence_world import DAY, World, event
from tests.validation.test_validation import NOON, frame_of
from tests.validation.test_validation import event as event_row

OLD = replace(EVENTS, partition_by=(c.EVENT_DATE,), range_by=None)


@pytest.mark.faults  # three nights
def test_sequences_erasure_care_and_readers_work_before_and_after(spark: SparkSession, tmp_path: Path) -> None:
    Warehouse(str(tmp_path)).create_if_missing(OLD)
    world = World(spark, tmp_path)
    world.put(*(event(number, f"u{number % 7}", -100 + number) for number in range(70)))
    path, house = world.events_path, world.warehouse
    assert not has_declared_layout(path, EVENTS) and world.night().was_full
    users = spark.createDataFrame([("u6",)], "user_id string")

    def erased(user: str) -> int:
        world.events = {key: one for key, one in world.events.items() if one.user_id != user}
        frame = users.select(F.lit(user).alias("user_id"))
        return erase(house, EVENTS, frame, frame).rows_after

    world.put(event(200, "u1", 3))
    assert erased("u6") == 61  # still in folders
    before, rows, table_id = house.version(EVENTS), consume.read_table(tmp_path, "events"), house.table_id(EVENTS)
    done = lay_out_anew(spark, path, EVENTS, run_id="r")
    assert (done.version, done.rows, done.files) == (before + 1, 61, 1) and has_declared_layout(path, EVENTS)
    assert house.table_id(EVENTS) == table_id and not content_changed(path, before)
    again = consume.read_table(tmp_path, "events")
    assert again.sort_by("event_id").equals(rows.sort_by("event_id"))
    assert house.read(spark, EVENTS, before).count() == house.read(spark, EVENTS, done.version).count() == 61
    assert [field.nullable for field in DeltaTable(path).schema().fields] == [
        column.nullable for column in EVENTS.columns
    ]

    world.put(event(201, "u2", 5), event(202, "u3", -45.5))  # of the day, and late
    world.as_of += DAY
    assert not world.night(check=3).was_full  # the changes are read across the new layout
    world.put(event(203, "u4", 30))
    world.as_of += DAY
    assert erased("u5") == 64 - 10 and not world.night().was_full
    config = TablesConfig(compact_from_files=2)
    assert small_files(path, config).files > 1
    compact(spark, path, config)
    assert len(DeltaTable(path).file_uris()) == 1 and len(consume.read_table(tmp_path, "events")) == 54


def test_the_change_feed_goes_across_the_new_layout(spark: SparkSession, tmp_path: Path) -> None:
    house, versions = Warehouse(str(tmp_path)), dict[int, dict[str, dict[str, Any]]]()

    def put(*numbers: int, **changes: Any) -> None:
        rows = [event_row(number, **changes) for number in numbers]
        version = upsert(house, spark, EVENTS, frame_of(spark, EVENTS, rows), run_id="r").version
        versions[version] = {row["event_id"]: row for row in house.read_arrow(EVENTS, version).to_pylist()}

    house.create_if_missing(OLD)
    later = NOON + timedelta(days=2)
    put(0, 1, 2)
    put(3, 4, event_ts=later, event_date=later.date())
    put(1, 5, value=7.0)  # a correction, and an addition
    put(2, event_ts=later, event_date=later.date())  # a correction that moves a row to another folder
    DeltaTable(house.path(EVENTS)).delete("event_id = 'e3'")
    lay_out_anew(spark, house.path(EVENTS), EVENTS, run_id="r")
    put(1, value=8.0)
    put(3, 6, event_ts=later, event_date=later.date(), value=9.0)
    until, now = max(versions), versions[max(versions)]
    columns = [name for name in EVENTS.column_names if name != c.EVENT_DATE]  # not in files that lie in folders
    for since, then in versions.items():
        found = net_changes(spark, house, EVENTS, since=since, until=until, columns=columns)
        for frame, ours, theirs in ((found.added, now, then), (found.removed, then, now)):
            rows = frame.toArrow().to_pylist()
            expected = [{name: row[name] for name in columns} for key, row in ours.items() if theirs.get(key) != row]
            assert sorted(map(repr, rows)) == sorted(map(repr, expected)), since

    # Back to a version of the old layout, as `rollback` goes, and forward again.
    DeltaTable(house.path(EVENTS)).restore(min(versions))
    assert not has_declared_layout(house.path(EVENTS), EVENTS)
    assert lay_out_anew(spark, house.path(EVENTS), EVENTS, run_id="r").rows == 3
    newest = house.version(EVENTS)
    rows = house.read(spark, EVENTS, newest).toArrow().to_pylist()
    assert {row["event_id"]: row for row in rows} == versions[min(versions)]


def test_ingest_lays_an_old_table_out_anew_once_and_says_so(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Shop(tmp_path)
    one, two = ("1", "ann", "a", "2024-03-01T08:00:00Z", "click"), ("2", "bob", "b", "2024-03-02T09:00:00Z", "click")
    shop.day("1", one, two)
    assert shop.run("ingest") == 0
    path = Warehouse(str(shop.warehouse)).path(EVENTS)
    lay_out_anew(spark, path, OLD, run_id="r")
    assert sorted(Path(file).parent.name for file in shop.files("events")) == [
        "event_date=2024-03-01",
        "event_date=2024-03-02",
    ]
    shop.day("2", ("1", "ann", "c", one[3], "click"), ("3", "cat", "c", "2024-03-03T09:00:00Z", "click"))
    assert shop.run("ingest") == 0
    assert told(capsys, "events: 2 rows in 1 files instead of 2, version")
    assert {key: item for key, (_, item, _) in shop.events().items()} == {"1": "c", "2": "b", "3": "c"}
    assert {Path(file).parent.name for file in shop.files("events")} == {"events"}
    assert len(shop.rows("source_files")) == 3  # no file was taken for lost
    assert shop.run("ingest") == 0
    assert not told(capsys, "laid it out in folders")


def test_many_rows_become_files_of_their_times(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precise_core.warehouse.layout._FILE_ROWS", 10)
    rows = [event_row(number, event_ts=event(number, "u", number).ts) for number in range(40)]
    frame = frame_of(spark, EVENTS, rows).repartition(3)
    parts = laid_out(frame, EVENTS, 40).select(
        F.spark_partition_id().alias("part"), F.unix_micros(c.EVENT_TS).alias("at")
    )
    spans = sorted((min(times), max(times)) for times in parts.toPandas().groupby("part")["at"].agg(list))
    assert len(spans) == 4 and all(one[1] < other[0] for one, other in pairwise(spans))
    assert laid_out(frame, EVENTS, 10).rdd.getNumPartitions() == 1


def entries(folder: Path) -> dict[str, Any]:
    """What version 0 of a table says, without what is of one making."""
    lines = (folder / "_delta_log" / f"{0:020}.json").read_text(encoding="utf-8").splitlines()
    found: dict[str, Any] = {name: content for line in lines for name, content in json.loads(line).items()}
    metadata = {name: found["metaData"][name] for name in found["metaData"].keys() - {"id", "createdTime"}}
    checksum = json.loads((folder / "_delta_log" / f"{0:020}.crc").read_text(encoding="utf-8"))
    assert checksum["metadata"] == found["metaData"] and checksum["protocol"] == found["protocol"]
    # What Delta may leave out: of one transaction, and sizes of files in bins.
    totals = {name: checksum[name] for name in checksum.keys() - {"metadata", "protocol", "txnId", "fileSizeHistogram"}}
    schema = json.loads(metadata["schemaString"])
    return metadata | totals | {"schemaString": schema, "protocol": found["protocol"]}


@pytest.mark.parametrize("table", [EVENTS, ITEMS, USER_SEQUENCES, EVENTS_REJECTED], ids=lambda table: table.name)
def test_a_table_is_made_as_spark_would_make_it(spark: SparkSession, tmp_path: Path, table: Table) -> None:
    Warehouse(str(tmp_path / "ours")).create_if_missing(table)
    builder = SparkDeltaTable.create(spark).location(Warehouse(str(tmp_path / "theirs")).path(table)).comment(table.doc)
    builder = builder.addColumns(table.spark_schema()).partitionedBy(*table.partition_by)
    feed = {"delta.enableChangeDataFeed": "true"} if table.has_change_feed else {}
    for key, value in (TABLE_PROPERTIES | feed).items():
        builder = builder.property(key, value)
    builder.execute()
    ours, theirs = (tmp_path / side / "tables" / table.name for side in ("ours", "theirs"))
    assert entries(ours) == entries(theirs)


def test_spark_reads_no_log_to_add_to_a_new_table(spark: SparkSession, tmp_path: Path) -> None:
    house, frame = Warehouse(str(tmp_path)), frame_of(spark, EVENTS, [event_row(0), event_row(1)])
    before = jobs_so_far(spark)
    assert house.append(EVENTS, frame, run_id="r", rows=2).rows == 2
    assert jobs_so_far(spark) - before == 1
    assert house.read(spark, EVENTS, 1).count() == 2
