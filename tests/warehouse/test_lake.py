"""Tables on S3, against a real server: two drivers, every reader, odd names, a busy store, one that refuses."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession

from precise_core.errors import ConfigError, StoreError
from precise_core.operations.traces import find_traces
from precise_core.store import place_of, store_at
from precise_core.warehouse.care import (
    content_changed,
    forget_history,
    is_readable,
    old_log_entries,
    trim_log,
    vacuum,
)
from precise_core.warehouse.changes import net_changes
from precise_core.warehouse.layout import has_declared_layout, lay_out_anew
from precise_core.warehouse.reader import DeltaSnapshot, TableReader
from precise_core.warehouse.tables import Warehouse
from precise_core.warehouse.upsert import upsert
from schemas.table import Column, Table
from tests.night import ROOT, own_process, wait_until
from tests.s3_proxy import Harm, Proxy, harmful_proxy
from tests.s3_server import SECRET, environment_of, make_bucket, running_s3

# Hive and Delta escape some of these, URIs others.
ODD_NAMES = ["plain", "a b", "100% of it", "a%20b", "x/y:z", "q?r#s", "wäre", "p+q=r&s"]
ODD = Table(
    name="odd",
    doc="A row a name.",
    key=("name", "number"),
    columns=(
        Column("name", "string", "A folder."),
        Column("number", "bigint", "A number."),
        Column("values", "array<float>", "Numbers."),
    ),
    partition_by=("name",),
    written_by="nobody",
)
COMMITS = 40


def rows_of(factor: float, numbers: range = range(2)) -> list[dict[str, Any]]:
    return [{"name": n, "number": k, "values": [k * factor, 0.5]} for n in ODD_NAMES for k in numbers]


def frame_of(spark: SparkSession, rows: list[dict[str, Any]]) -> Any:
    return spark.createDataFrame([tuple(row.values()) for row in rows], ODD.spark_schema())


def sorted_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["name"], row["number"]))


def acknowledged(driver: subprocess.Popen[str]) -> int:
    out, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, out[-3000:]
    return out.count("acknowledged")


@pytest.mark.lake
def test_two_drivers_and_deltalake_lose_no_commit(s3: str, tmp_path: Path) -> None:
    assert s3
    table = "s3a://lake/race"
    row = pa.schema([("writer", pa.string()), ("number", pa.int32())])
    write_deltalake(table, pa.Table.from_pylist([], schema=row))
    names = ("first", "second")
    drivers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.lake_driver", table, name, str(COMMITS), str(tmp_path)],
            cwd=ROOT, env=own_process(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for name in names
    ]  # fmt: skip
    try:
        for driver, name in zip(drivers, names, strict=True):
            wait_until(driver, (tmp_path / f"{name}.ready").exists, 0.05)
        (tmp_path / "go").touch()
        number = 0
        while any(driver.poll() is None for driver in drivers) and number < COMMITS:
            write_deltalake(
                table, pa.Table.from_pylist([{"writer": "deltalake", "number": number}], row), mode="append"
            )
            number += 1
            time.sleep(0.2)
        expected = {name: acknowledged(driver) for driver, name in zip(drivers, names, strict=True)}
    finally:
        for driver in drivers:
            driver.kill()
    stored = DeltaSnapshot(table)
    found = Counter(pa.concat_tables(stored.tables(["writer"]))["writer"].to_pylist())
    assert expected == dict.fromkeys(names, COMMITS) and number
    assert found == expected | {"deltalake": number}
    assert stored.version == found.total()  # each commit has a version of its own


@pytest.fixture(scope="module")
def house(s3: str, s3_spark: SparkSession) -> Warehouse:
    """A table that was written by Spark, upserted, and appended to by deltalake."""
    assert s3
    house = Warehouse("s3://lake/wäre house/our 100% no 1")
    assert house.write(s3_spark, ODD, frame_of(s3_spark, rows_of(1.0)), run_id="r").changed
    assert not house.write(s3_spark, ODD, frame_of(s3_spark, rows_of(1.0)), run_id="r").changed
    done = upsert(house, s3_spark, ODD, frame_of(s3_spark, rows_of(2.0, range(1, 3))), run_id="r")
    assert (done.new, done.corrected) == (len(ODD_NAMES), len(ODD_NAMES))
    house.append_records(ODD, rows_of(4.0, range(3, 4)))
    return house


EXPECTED = sorted_rows(rows_of(1.0, range(1)) + rows_of(2.0, range(1, 3)) + rows_of(4.0, range(3, 4)))


@pytest.mark.lake
def test_every_reader_finds_every_row_under_every_name(house: Warehouse, s3_spark: SparkSession) -> None:
    version = house.version(ODD)
    by_spark = [row.asDict() for row in house.read(s3_spark, ODD, version).collect()]
    assert sorted_rows(by_spark) == EXPECTED
    assert sorted_rows(house.read_arrow(ODD, version).to_pylist()) == EXPECTED
    assert sorted_rows(TableReader(house.root).read(ODD, ODD.column_names).to_pylist()) == EXPECTED
    snapshot = DeltaSnapshot(house.path(ODD), version)
    for name in ODD_NAMES:
        mine = [row for row in EXPECTED if row["name"] == name]
        assert sorted_rows(house.read_arrow(ODD, version, where={"name": name}).to_pylist()) == mine
        parts = snapshot.tables(["number"], {"name": name})
        assert sorted(number for part in parts for number in part["number"].to_pylist()) == [0, 1, 2, 3]
        assert snapshot.row_count({"name": name}) == 4


@pytest.mark.lake
def test_no_setting_of_spark_holds_the_secret(s3_spark: SparkSession) -> None:
    assert SECRET not in str(s3_spark.sparkContext.getConf().getAll())


@pytest.mark.lake
def test_versions_and_what_has_changed_between_them(house: Warehouse, s3_spark: SparkSession) -> None:
    first, newest = 1, house.version(ODD)
    assert sorted_rows(house.read_arrow(ODD, first).to_pylist()) == sorted_rows(rows_of(1.0))
    columns = ["name", "number"]
    changes = net_changes(s3_spark, house, ODD, since=first, until=newest, columns=columns)
    assert {tuple(row) for row in changes.added.collect()} == {(n, k) for n in ODD_NAMES for k in (2, 3)}
    assert not changes.has_removed


@pytest.mark.lake
def test_files_of_old_versions_go_and_a_version_knows_whether_it_is_readable(
    house: Warehouse, s3_spark: SparkSession
) -> None:
    cared = replace(ODD, name="cared")
    for factor in (1.0, 2.0):
        house.write(s3_spark, cared, frame_of(s3_spark, rows_of(factor)), run_id="r")
    path = house.path(cared)
    assert is_readable(path, 1) and is_readable(path, 2) and not is_readable(path, 9)
    old = vacuum(path, 0, dry_run=True)
    assert len(old) >= len(ODD_NAMES) and vacuum(path, 0, dry_run=False) == old and not vacuum(path, 0, dry_run=True)
    assert is_readable(path, 2) and not is_readable(path, 1)
    assert sorted_rows(house.read_arrow(cared, 2).to_pylist()) == sorted_rows(rows_of(2.0))


@pytest.mark.lake
def test_a_table_is_laid_out_anew_and_its_history_forgotten(house: Warehouse, s3_spark: SparkSession) -> None:
    moved = replace(ODD, name="moved")
    flat, path = replace(moved, partition_by=()), house.path(moved)
    for factor in (1.0, 2.0):
        house.write(s3_spark, flat, frame_of(s3_spark, rows_of(factor)), run_id="r")
    done = lay_out_anew(s3_spark, path, moved, run_id="r")
    assert (done.version, done.rows, done.files_before) == (3, 16, 1) and has_declared_layout(path, moved)
    assert done.files >= len(ODD_NAMES) and not content_changed(path, 2)
    assert sorted_rows(house.read_arrow(moved, 3).to_pylist()) == sorted_rows(rows_of(2.0))
    assert sorted_rows(house.read_arrow(flat, 1).to_pylist()) == sorted_rows(rows_of(1.0))
    beside = store_at(house.root).list("tables/moved.laid_out_anew")
    assert not [entry for entry in beside if entry.size_bytes]  # Hadoop's marks of folders stay, and are nothing

    assert len(forget_history(path)) == 2
    files = [entry.name for entry in store_at(path).list() if entry.name.endswith(".parquet")]
    entries = [entry.name for entry in store_at(path).list("_delta_log") if entry.name.endswith(".json")]
    assert len([name for name in files if not name.startswith("_delta_log")]) == done.files and len(entries) == 1
    assert not is_readable(path, 2)
    assert sorted_rows(house.read_arrow(moved, house.version(moved)).to_pylist()) == sorted_rows(rows_of(2.0))
    assert sorted_rows([row.asDict() for row in house.read(s3_spark, moved, house.version(moved)).collect()]) == (
        sorted_rows(rows_of(2.0))
    )


@pytest.mark.lake
def test_old_log_entries_go_and_a_search_for_a_user_reads_every_file(house: Warehouse) -> None:
    columns = (Column("user_id", "string", "A user."), *ODD.columns[1:])
    seen = replace(ODD, name="seen", columns=columns, key=("user_id",), partition_by=())
    for user in ("ann", "bob", "cyd"):
        house.append_records(seen, [{"user_id": user, "number": 1, "values": [1.0]}])
    DeltaTable(house.path(seen)).delete("user_id = 'ann'")
    found = find_traces(house.path(seen), ["ann", "bob"])
    assert (found.live_files, found.older_files, found.live_values, found.older_values) == (2, 1, 1, 1)
    assert found.log_entries == 4 and found.log_values > 0
    assert len(old_log_entries(house.path(seen), 0)) == 3 and not old_log_entries(house.path(seen), 1)
    assert trim_log(house.path(seen), 0) > 0
    assert house.read_arrow(seen, house.version(seen), ["user_id"]).num_rows == 2


@pytest.mark.lake
def test_a_table_is_made_once_and_as_on_a_disk(house: Warehouse, tmp_path: Path) -> None:
    local = Warehouse(str(tmp_path))
    local.create_if_missing(ODD)
    house.create_if_missing(ODD)
    there, here = DeltaTable(house.path(ODD), version=0), DeltaTable(local.path(ODD))
    assert there.schema().to_json() == here.schema().to_json()
    for name in ("description", "partition_columns", "configuration"):
        assert getattr(there.metadata(), name) == getattr(here.metadata(), name)
    assert there.protocol() == here.protocol()


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What stands between the server and us; deltalake and pyarrow go this way."""
    with harmful_proxy(s3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


def bucket_by(proxy: Proxy, spark: SparkSession, s3: str, name: str) -> Warehouse:
    """A warehouse in a bucket of its own, to which Spark goes by the proxy too."""
    make_bucket(s3, name)
    context: Any = spark.sparkContext
    context._jsc.hadoopConfiguration().set(f"fs.s3a.bucket.{name}.endpoint", proxy.endpoint)
    return Warehouse(f"s3a://{name}/lake")


@pytest.mark.lake
def test_a_store_that_is_busy_for_a_while_costs_time_and_nothing_else(
    s3: str, s3_spark: SparkSession, proxy: Proxy
) -> None:
    house, busy = bucket_by(proxy, s3_spark, s3, "busy"), Harm(status=503, code="SlowDown", seconds=3)
    harmed = []
    proxy.do(busy)
    assert house.append(ODD, frame_of(s3_spark, rows_of(1.0)), run_id="r").version == 1
    harmed.append(len(proxy.harmed))
    proxy.do(busy)
    assert sorted_rows(house.read_arrow(ODD, 1).to_pylist()) == sorted_rows(rows_of(1.0))
    harmed.append(len(proxy.harmed))
    proxy.do(replace(busy, requests=r"^PUT .*_delta_log"))
    assert upsert(house, s3_spark, ODD, frame_of(s3_spark, rows_of(2.0)), run_id="r").version == 2
    house.append_records(ODD, rows_of(3.0, range(2, 3)))
    assert all([*harmed, len(proxy.harmed)])
    expected = rows_of(1.0, range(1)) + rows_of(2.0, range(1, 2)) + rows_of(3.0, range(2, 3))
    assert sorted_rows(house.read_arrow(ODD, 3).to_pylist()) == sorted_rows(expected)


@pytest.mark.lake
def test_a_commit_whose_answer_is_lost_is_made_once(s3: str, s3_spark: SparkSession, proxy: Proxy) -> None:
    house = bucket_by(proxy, s3_spark, s3, "lost")
    house.create_if_missing(ODD)
    proxy.do(Harm(requests=rf"^PUT .*/_delta_log/{1:020}\.json$", status=0, times=1))
    assert house.append(ODD, frame_of(s3_spark, rows_of(1.0)), run_id="r").version == 1
    assert len(proxy.harmed) == 1
    assert sorted_rows(house.read_arrow(ODD, 1).to_pylist()) == sorted_rows(rows_of(1.0))


@pytest.mark.lake
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (Harm(status=400, code="ExpiredToken"), "the credentials have expired"),
        (Harm(status=403, code="AccessDenied"), "these credentials may not do this"),
    ],
)
def test_a_refusal_is_one_line(house: Warehouse, proxy: Proxy, harm: Harm, said: str) -> None:
    proxy.do(harm)
    for attempt in (
        lambda: house.version(ODD),
        lambda: house.append_records(ODD, rows_of(4.0)),
        lambda: TableReader(house.root).read(ODD, ["name"]),
    ):
        with pytest.raises(StoreError, match=rf"s3a://lake/.* did not do what was asked: {said}") as error:
            attempt()
        assert "\n" not in str(error.value)


@pytest.mark.lake
def test_what_spark_may_not_write_is_one_line(s3: str, s3_spark: SparkSession, proxy: Proxy) -> None:
    house = bucket_by(proxy, s3_spark, s3, "closed")
    house.create_if_missing(ODD)
    proxy.do(Harm(requests="^(PUT|POST)"))
    with pytest.raises(StoreError, match=r"s3a://closed/lake: .*: these credentials may not do this") as error:
        house.append(ODD, frame_of(s3_spark, rows_of(1.0)), run_id="r")
    assert "\n" not in str(error.value)
    proxy.do(Harm(times=0))
    assert house.version(ODD) == 0


@pytest.mark.lake
def test_wrong_credentials_are_one_line(house: Warehouse, s3: str) -> None:
    code = "import sys; from precise_core.warehouse.reader import DeltaSnapshot; DeltaSnapshot(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, house.path(ODD)],
        cwd=ROOT, env=own_process() | environment_of(s3, secret="wrong"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "StoreError: s3a://lake/" in done.stderr and "the credentials are wrong" in done.stderr


@pytest.mark.lake
def test_a_server_that_takes_no_writes_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_s3(tmp_path) as endpoint:
        make_bucket(endpoint, "archive")
    with running_s3(tmp_path, "--readonly") as endpoint:
        for name, value in environment_of(endpoint).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(StoreError, match=r"s3a://archive/lake: .* these credentials may not do this"):
            Warehouse("s3a://archive/lake").append_records(ODD, rows_of(1.0))


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("s3a://", "names no bucket"),
        ("s3a:///lake", "names no bucket"),
        ("abfss://c@account.dfs.core.windows.net/lake", "no warehouse lies in such a place"),
        ("s3a:/bucket/lake", "a URI has two slashes"),  # str(Path("s3a://bucket/lake"))
        ("s3a://bucket/a#b", "what follows '#' is no part of a path"),
        ("s3a://bucket/a%20b", "must not have '%20'"),
        ("s3a://bucket/{a}", "must not have '{'"),
    ],
)
def test_a_uri_that_somebody_would_read_as_another_is_refused(root: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Warehouse(root)


@pytest.mark.parametrize("root", ["s3://bucket/lake/", "s3n://bucket/lake", "s3a://bucket/lake"])
def test_a_place_on_s3_has_one_name(root: str) -> None:
    assert place_of(root) == "s3a://bucket/lake"
