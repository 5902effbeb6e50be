"""Nights that go wrong, each fault provoked for real: what is said, what state things are in, what helps."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from precise_core.warehouse.care import live_files
from precise_core.warehouse.layout import lay_out_anew, remove_unfinished
from precise_core.warehouse.tables import Warehouse
from schemas import EVENTS, RUNS, TABLES
from tests.night import copy_of, job_of_its_own, run, said, wait_until
from tests.nights.test_night import read

pytestmark = pytest.mark.faults

MORE_USERS = ("--set", "source.users=160")


def last_run(warehouse: Path) -> dict[str, object]:
    house = Warehouse(str(warehouse))
    runs = house.read_arrow(RUNS, house.version(RUNS)).to_pylist()
    return dict(max(runs, key=lambda row: row["started_at"]))


def kill_between_data_and_commit(warehouse: Path) -> bool:
    """Stop `ingest` once its first new file of events is there, kill it, and say whether that was before its commit."""
    events = warehouse / "tables" / "events"
    files, entries = set(events.rglob("*.parquet")), set((events / "_delta_log").glob("*.json"))
    with job_of_its_own("ingest", warehouse, *MORE_USERS) as process:
        wait_until(process, lambda: bool(set(events.rglob("*.parquet")) - files), pause_seconds=0.002)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGSTOP)
        return set((events / "_delta_log").glob("*.json")) == entries


def test_a_driver_killed_between_data_and_commit(
    night: Path, tmp_path: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    for attempt in range(3):
        warehouse = copy_of(night, tmp_path / f"warehouse{attempt}")
        if kill_between_data_and_commit(warehouse):
            break
    else:
        pytest.fail("the commit was always faster than the kill")
    house, before = Warehouse(str(warehouse)), Warehouse(str(night)).version(EVENTS)
    assert house.version(EVENTS) == before
    assert house.read(spark, EVENTS, before).count() == len(read(night, "events"))
    assert run("ingest", warehouse, *MORE_USERS) == 0
    out = said(capsys)
    assert "the last writer, process" in out and "was killed" in out
    balance = last_run(warehouse)
    assert balance["rows_in"] == balance["rows_out"] + balance["rows_rejected"]  # type: ignore[operator]
    assert len(read(warehouse, "events")) > len(read(night, "events"))
    # Half-written files are no rows, and care for the tables takes them away.
    live = set(live_files(house.path(EVENTS)))
    flags = ("--set", "tables.min_retention_hours=0", "--retention-hours", "0")
    assert run("maintain_tables", warehouse, *flags) == 0
    events = warehouse / "tables" / "events"
    on_disk = {file.relative_to(events).as_posix() for file in events.glob("*.parquet")}
    assert on_disk == set(live_files(house.path(EVENTS))) and live


def test_a_driver_killed_while_it_lays_an_old_table_out_anew(
    night: Path, tmp_path: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    house, events = Warehouse(str(warehouse)), warehouse / "tables" / "events"
    lay_out_anew(spark, str(events), replace(EVENTS, partition_by=("event_date",), range_by=None), run_id="r")
    before, rows = house.version(EVENTS), read(night, "events")
    beside = events.with_name(remove_unfinished(str(events)))
    with job_of_its_own("ingest", warehouse) as process:
        wait_until(process, lambda: any(beside.rglob("*.parquet")), pause_seconds=0.002)
    assert beside.exists() and house.version(EVENTS) == before
    assert sorted(read(warehouse, "events")["event_id"]) == sorted(rows["event_id"])
    assert run("ingest", warehouse) == 0
    assert "no row has changed" in said(capsys)
    assert not beside.exists() and house.version(EVENTS) == before + 1
    assert sorted(read(warehouse, "events")["event_id"]) == sorted(rows["event_id"])


def test_the_same_night_twice_changes_nothing_and_says_so(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    for job in ("ingest", "build_sequences", "build_windows"):
        capsys.readouterr()
        assert run(job, warehouse) == 0
        out = said(capsys)
        assert "unchanged" in out, job
    for table in ("events", "items", "user_sequences", "training_windows"):
        path = ("tables", table)
        assert live_files(str(warehouse.joinpath(*path))) == live_files(str(night.joinpath(*path)))


def test_two_nights_at_once(night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    with job_of_its_own("ingest", warehouse, *MORE_USERS) as first:
        wait_until(first, lambda: (warehouse / ".lock").is_file() and bool((warehouse / ".lock").read_text()))
        assert run("run_night", warehouse) == 2
        out = said(capsys)
        assert f"run_night failed: warehouse {warehouse} is in use by process {first.pid} on" in out
        assert "(ingest.py --config" in out and "wait for it to end" in out
        assert first.wait(timeout=240) == 0
    assert len(read(warehouse, "events")) > len(read(night, "events"))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(file: Path) -> None:
    """One bit of the last values of a column that every job reads: Parquet itself would read on."""
    group = pq.ParquetFile(file).metadata.row_group(0)
    columns = [group.column(place) for place in range(group.num_columns)]
    (times,) = (column for column in columns if column.path_in_schema == "event_ts")
    data = bytearray(file.read_bytes())
    data[times.data_page_offset + times.total_compressed_size - 3] ^= 0b100  # behind the header, which has no sum
    file.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "what"),
    [(truncate, "damaged, cut off or gone"), (flip_a_bit, "the checksum of a page does not hold")],
)
def test_a_damaged_file_of_a_table(night: Path, tmp_path: Path, damage, what: str) -> None:  # type: ignore[no-untyped-def]
    warehouse = copy_of(night, tmp_path / "warehouse")
    events = warehouse / "tables" / "events"
    file = max(events.glob("*.parquet"), key=lambda path: path.stat().st_size)
    for copied in (*events.rglob(".*.crc"),):  # a sum beside the file is not what is tested here
        copied.unlink()
    damage(file)
    sequences = live_files(str(warehouse / "tables" / "user_sequences"))
    assert run("build_windows", warehouse) == 2
    assert f"{file.name}: cannot be read, {what}" in str(last_run(warehouse)["error"])
    assert live_files(str(warehouse / "tables" / "user_sequences")) == sequences
    assert len(read(warehouse, "user_sequences")) == len(read(night, "user_sequences"))
    # The table is made of the source: made anew it has the same rows.
    shutil.rmtree(events)
    assert run("ingest", warehouse) == 0
    assert sorted(read(warehouse, "events")["event_id"]) == sorted(read(night, "events")["event_id"])


@contextmanager
def small_disk(folder: Path, spare_bytes: int) -> Iterator[None]:
    """A file system of its own with the content of ``folder`` and little room beside it."""
    used = sum(file.stat().st_size + 4096 for file in folder.rglob("*"))
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.mkdir()
    size = f"size={used + spare_bytes}"
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", folder]).returncode:
        pytest.skip("needs to mount a tmpfs")
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk(night: Path, tmp_path: Path, spark: SparkSession) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    house = Warehouse(str(warehouse))
    before = {table.name: house.version(table) for table in TABLES if house.exists(table)}
    rows = len(read(warehouse, "events"))
    with small_disk(warehouse, spare_bytes=150_000):
        with job_of_its_own("ingest", warehouse, "--set", "source.users=1500") as process:
            out = process.communicate(timeout=300)[0]
            assert process.returncode != 0 and "No space left on device" in out
        assert house.version(EVENTS) == before["events"]
        assert house.read(spark, EVENTS, before["events"]).count() == rows
        subprocess.run(["mount", "-o", "remount,size=1g", warehouse], check=True)
        assert run("ingest", warehouse, "--set", "source.users=1500") == 0
        assert len(read(warehouse, "events")) > rows
        balance = last_run(warehouse)
        assert balance["rows_in"] == balance["rows_out"] + balance["rows_rejected"]  # type: ignore[operator]
