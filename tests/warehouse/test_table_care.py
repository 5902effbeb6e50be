"""Care for tables: nothing a reader needs goes, nothing that is needed is news, and old things go."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from precise_core.operations.maintenance import unused_artefacts
from precise_core.warehouse.care import (
    compact,
    content_changed,
    forget_history,
    live_files,
    small_files,
    trim_log,
    vacuum,
)
from precise_core.warehouse.config import TablesConfig
from precise_core.warehouse.locks import leases, reader_lease
from precise_core.warehouse.tables import Warehouse
from schemas import EVENTS, ITEM_VOCABULARY, RUNS
from schemas import columns as c
from tests.night import ROOT, copy_of, run, said

CONFIG = TablesConfig(compact_from_files=2)


def vocabulary(spark: SparkSession, first: int, rows: int):  # type: ignore[no-untyped-def]
    index = F.col("id").cast("int")
    item = F.concat(F.lit("i"), F.col("id").cast("string"))
    stamp = F.lit("2024-01-10").cast("timestamp")
    return spark.range(first, first + rows).select(
        item.alias(c.ITEM_ID), index.alias(c.ITEM_INDEX), stamp.alias(c.FIRST_SEEN)
    )


@pytest.fixture
def table(spark: SparkSession, tmp_path: Path) -> str:
    """Four commits of one small file each."""
    house = Warehouse(str(tmp_path))
    for part in range(4):
        house.append(ITEM_VOCABULARY, vocabulary(spark, 10 * part + 2, 10).coalesce(1), run_id="r")
    return house.path(ITEM_VOCABULARY)


def rows(path: str, version: int | None = None) -> set[str]:
    files = DeltaTable(path, version=version).file_uris()
    return {item for file in files for item in pq.read_table(file)[c.ITEM_ID].to_pylist()}


def test_compaction_merges_files_and_is_no_news(spark: SparkSession, table: str) -> None:
    before, version = rows(table), DeltaTable(table).version()
    assert small_files(table, CONFIG).files == 4
    assert compact(spark, table, CONFIG) == version + 1
    assert len(live_files(table)) == 1 and rows(table) == before
    assert not content_changed(table, version)
    assert small_files(table, CONFIG).files == 0
    assert spark.read.format("delta").load(table).count() == len(before)
    house = Warehouse(str(Path(table).parents[1]))
    house.append(ITEM_VOCABULARY, vocabulary(spark, 100, 1), run_id="r")
    assert content_changed(table, version)


def test_vacuum_removes_what_no_version_needs_and_leftovers_of_killed_writers(spark: SparkSession, table: str) -> None:
    version = DeltaTable(table).version()
    compact(spark, table, CONFIG)
    orphan = Path(table) / "part-00000-killed.parquet"
    orphan.write_bytes(b"half a file")
    assert vacuum(table, 24, dry_run=True) == []
    would = vacuum(table, 0, dry_run=True)
    assert len(would) == 5 and orphan.exists()
    assert sorted(vacuum(table, 0, dry_run=False)) == sorted(would)
    assert not orphan.exists() and len(rows(table)) == 40
    assert not content_changed(table, version)


def test_old_log_entries_go_and_the_table_stays_readable(spark: SparkSession, table: str) -> None:
    long_ago = time.time() - 90 * 86_400
    for file in (Path(table) / "_delta_log").glob("*.json"):
        os.utime(file, (long_ago, long_ago))
    assert trim_log(table, days=30) > 0
    assert not (Path(table) / "_delta_log" / f"{0:020d}.json").exists()
    assert len(rows(table)) == 40
    assert spark.read.format("delta").load(table).count() == 40
    house = Warehouse(str(Path(table).parents[1]))
    house.append(ITEM_VOCABULARY, vocabulary(spark, 100, 1), run_id="r")
    assert len(rows(table)) == 41


def test_a_table_without_history_is_a_table(spark: SparkSession, table: str) -> None:
    compact(spark, table, CONFIG)
    assert len(forget_history(table)) == 4
    assert len(list(Path(table).glob("*.parquet"))) == 1
    assert len(list((Path(table) / "_delta_log").glob("*.json"))) == 1
    assert spark.read.format("delta").load(table).count() == len(rows(table)) == 40
    house = Warehouse(str(Path(table).parents[1]))
    house.append(ITEM_VOCABULARY, vocabulary(spark, 100, 1), run_id="r")
    assert len(rows(table)) == 41


READER = """
import sys, pyarrow.parquet as pq
from deltalake import DeltaTable
from precise_core.warehouse.locks import reader_lease
root, version, is_registered = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
def read():
    files = DeltaTable(f"{root}/tables/item_vocabulary", version=version).file_uris()
    print("reading", flush=True)
    sys.stdin.readline()
    print(sum(pq.read_table(file).num_rows for file in files), flush=True)
if is_registered:
    with reader_lease(root, "weekly export", {"item_vocabulary": version}):
        read()
else:
    read()
"""


@contextmanager
def reader(warehouse: Path, version: int, is_registered: bool = True) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of reading a version."""
    command = [sys.executable, "-c", READER, str(warehouse), str(version), str(is_registered)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "reading\n"
        yield process
        process.kill()


def maintain(warehouse: Path, *flags: str) -> int:
    settings = ("tables.min_retention_hours=0", "tables.compact_from_files=2")
    return run("maintain_tables", warehouse, *(part for key in settings for part in ("--set", key)), *flags)


def test_vacuum_never_undercuts_a_registered_reader(
    spark: SparkSession, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse, version = Path(table).parents[1], DeltaTable(table).version()
    compact(spark, table, CONFIG)
    with reader(warehouse, version) as process:
        capsys.readouterr()
        assert maintain(warehouse, "--retention-hours", "0") == 2
        assert f"a reader needs: process {process.pid} on" in (out := said(capsys)) and "weekly export" in out
        assert maintain(warehouse, "--retention-hours", "1") == 0
        assert process.communicate("\n")[0] == "40\n"
    assert maintain(warehouse, "--retention-hours", "0") == 0
    assert len(list(Path(table).glob("*.parquet"))) == 1


def test_a_reader_that_did_not_register_fails_loudly(spark: SparkSession, table: str) -> None:
    warehouse, version = Path(table).parents[1], DeltaTable(table).version()
    compact(spark, table, CONFIG)
    with reader(warehouse, version, is_registered=False) as process:
        assert maintain(warehouse, "--retention-hours", "0") == 0
        out, error = process.communicate("\n")
    assert process.returncode == 1 and out == ""
    assert re.search(r"FileNotFoundError: .*\.parquet", error)


def test_a_killed_reader_holds_nothing_back(
    spark: SparkSession, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse, version = Path(table).parents[1], DeltaTable(table).version()
    compact(spark, table, CONFIG)
    with reader(warehouse, version) as process:
        process.kill()
        process.wait()
        living, stale = leases(warehouse)
        assert (living, [lease.pid for lease in stale]) == ([], [process.pid])
        assert maintain(warehouse, "--retention-hours", "0") == 0
    assert "ended without a word" in said(capsys)
    assert leases(warehouse) == ([], [])


def test_a_reader_on_another_host_counts_as_living(tmp_path: Path) -> None:
    with reader_lease(tmp_path, "here") as lease:
        assert leases(tmp_path) == ([], [])  # this process is no reader to itself
        text = (tmp_path / lease.place).read_text().replace(lease.host, "elsewhere")
        (tmp_path / "readers" / "copied.json").write_text(text)
        assert [found.host for found in leases(tmp_path)[0]] == ["elsewhere"]
    assert len(leases(tmp_path)[0]) == 1


def test_a_reader_that_has_not_yet_said_who_it_is_counts_as_living(tmp_path: Path) -> None:
    file = tmp_path / "readers" / "new.json"
    file.parent.mkdir()
    file.touch()
    assert [len(found) for found in leases(tmp_path)] == [1, 0]
    os.utime(file, (0, 0))
    with file.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert [len(found) for found in leases(tmp_path)] == [1, 0]
    assert [len(found) for found in leases(tmp_path)] == [0, 1]  # killed before it wrote a word


def test_retention_below_the_minimum_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("maintain_tables", tmp_path, "--retention-hours", "3") == 2
    assert "retention of 3 h is below tables.min_retention_hours 24" in said(capsys)


@pytest.mark.faults
def test_care_after_a_night_changes_no_row_and_is_no_news(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    house = Warehouse(str(warehouse))
    rows_before = house.read_arrow(EVENTS, house.version(EVENTS)).num_rows
    unused = warehouse / "checkpoints" / "universal-all-000000000000"
    unused.mkdir()
    (unused / "sums.json").write_text("{}")
    assert maintain(warehouse, "--dry-run") == 0
    out = said(capsys)
    assert "would merge" in out and unused.name in out and unused.exists()
    assert maintain(warehouse, "--retention-hours", "0") == 0
    assert not unused.exists()
    assert house.read_arrow(EVENTS, house.version(EVENTS)).num_rows == rows_before
    assert len(live_files(house.path(RUNS))) < 10
    for job in ("build_sequences", "recall"):  # everything a job opens is still there
        assert run(job, warehouse) == 0
    capsys.readouterr()
    assert run("maintain_tables", warehouse) == 0
    out = said(capsys)
    assert "small files" not in out and "files older" not in out


@pytest.mark.faults
def test_what_is_in_use_or_recent_is_kept(night: Path) -> None:
    house = Warehouse(str(night))
    runs = house.read_arrow(RUNS, house.version(RUNS)).to_pylist()
    assert unused_artefacts(night, runs, keep=7) == []
    # Without a run that remembers them, the pointers alone keep what is in use.
    assert {folder.parent.name for folder in unused_artefacts(night, [], keep=1)} <= {"catalogs", "indexes"}


def test_writing_below_a_compacted_version_is_seen(tmp_path: Path) -> None:
    import pyarrow as pa

    path = str(tmp_path / "t")
    write_deltalake(path, pa.table({"x": [1]}))
    assert not content_changed(path, 0)
    assert content_changed(path, 5)  # a table that was made anew has fewer versions than were seen
