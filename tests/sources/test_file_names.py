"""What is listed is what is read: awkward names, folders that are columns, files without rows, rows that never came."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.errors import ConfigError, DataError, SchemaError
from precise_core.intake.cleaning import clean_events
from precise_core.intake.parts import Part
from precise_core.intake.read import read_source
from precise_core.intake.stock import Arrival, Intake, Policy, decide_what_to_read
from precise_core.sources.config import FilesSource
from precise_core.warehouse.spark_errors import unreadable_files
from schemas import EVENTS

AWKWARD = [
    "export[12]", "export1", "a?b", "aXb", "log{1}", "log{1,2}", "*", "back\\slash", "50%", "a%20b", "plus+", "#1",
    "it's", 'a "b"', " lead", "a;b&c=d,e", "$HOME", "~", "ä", "a\u0308", "中文", "😀", "new\nline", "tab\there",
]  # fmt: skip
SPEC: dict[str, Any] = {"user": "u", "item": "i", "time": "t", "time_reading": {"unit": "seconds"}}


def source_of(path: Path | str, **more: Any) -> FilesSource:
    return FilesSource.model_validate({"kind": "files", "events": SPEC | {"path": str(path)} | more})


def write(file: Path, *users: str, **more: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = pd.DataFrame({"u": users, "i": "a", "t": 1709294400, **more}, columns=["u", "i", "t", *more])
    if file.suffix == ".parquet":
        rows.to_parquet(file, index=False)
    elif file.suffix == ".jsonl":
        rows.to_json(file, orient="records", lines=True)
    else:
        rows.to_csv(file, index=False)
    return file


def stock(spark: SparkSession, source: FilesSource, known: list[dict[str, Any]] | None = None, **flags: bool) -> Intake:
    return decide_what_to_read(spark, source, known or [], {"events": "its id"}, Policy(**flags))


def known_of(*arrivals: Arrival) -> list[dict[str, Any]]:
    now = datetime(2024, 3, 1, tzinfo=UTC)
    return [arrival.record("events", "", 1, "run", now) | {"table_id": None} for arrival in arrivals]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_name_of_any_characters_is_read_to_the_letter(spark: SparkSession, tmp_path: Path, suffix: str) -> None:
    files = [write(tmp_path / f"team [eu] {name}" / f"{name}.{suffix}", str(n)) for n, name in enumerate(AWKWARD)]
    found = read_source(spark, source_of(tmp_path, format=suffix)).events.select("user_id", "source_file").collect()
    assert sorted((row[0], row[1]) for row in found) == sorted((str(n), str(file)) for n, file in enumerate(files))
    first = read_source(spark, source_of(files[0])).events.select("user_id").collect()
    assert [row[0] for row in first] == ["0"]


@pytest.mark.parametrize("name", ["_1.csv", ".1.csv", "at 08:30.csv", "a:b/export[1].csv", "1.csv._COPYING_"])
def test_a_name_that_spark_cannot_read_is_refused(spark: SparkSession, tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, "7")
    with pytest.raises(DataError, match=r"Spark leaves out|Spark cannot read a file of this name"):
        read_source(spark, source_of(file, format="csv"))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_hive_folders_are_columns(spark: SparkSession, tmp_path: Path, suffix: str) -> None:
    values = ["home", "a%2Fb %C3%A4+", "__HIVE_DEFAULT_PARTITION__"]
    log = tmp_path / "log"
    for n, value in enumerate(values):
        write(log / f"scene={value}" / "day=2024-03-01" / f"1.{suffix}", str(n))
    (log / "scene=live").symlink_to(write(tmp_path / "elsewhere" / f"2.{suffix}", "3").parent)
    write(log / "scene=folder" / f"3.{suffix}", "4", scene="its own")
    source = source_of(log, format=suffix, scene={"column": "scene"})
    rows = read_source(spark, source).events.select("user_id", "scene", "problem", "raw").collect()
    found = {row["user_id"]: row["scene"] for row in rows}
    # A linked folder is called what the link is called, and where the file has the column, its cell counts.
    assert found["3"] == "live" and found["4"] == "its own"
    assert {json.loads(row["raw"])["scene"] for row in rows} == set(found.values())  # so that it can be judged again
    hive = ds.HivePartitioning(pa.schema([("scene", pa.string()), ("day", pa.string())]), segment_encoding="uri")
    inside = [str(file) for file in log.glob(f"*/*/1.{suffix}")]
    kind = {"jsonl": "json"}.get(suffix, suffix)
    oracle = ds.dataset(inside, format=kind, partitioning=hive, partition_base_dir=str(log)).to_table(["u", "scene"])
    assert {str(user): scene for user, scene in zip(*oracle.to_pydict().values(), strict=True)} == {
        user: found[user] for user in "012"
    }
    if suffix == "jsonl":
        return  # a key that some line of some file has need not be in every line
    write(log / f"4.{suffix}", "5")
    with pytest.raises(SchemaError, match=rf"4\.{suffix}: no column 'scene'"):
        read_source(spark, source).events.collect()


def test_what_folders_say_stays_with_rejected_rows_and_gives_way_to_late_keys(
    spark: SparkSession, tmp_path: Path
) -> None:
    lines = [{"u": 7.5, "i": "a", "t": "2024-03-01"}] + [{"u": n, "i": "a", "t": "2024-03-01"} for n in range(1100)]
    folder = tmp_path / "log" / "scene=home"
    folder.mkdir(parents=True)
    (folder / "1.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    lines.append({"u": 2000, "i": "a", "t": "2024-03-01", "scene": "its own"})
    (folder / "2.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    source = source_of(tmp_path / "log", format="jsonl", scene={"column": "scene"})
    rows = read_source(spark, source).events.select("user_id", "scene", "problem", "raw", "source_file").collect()
    found = {(Path(row["source_file"]).name, row["user_id"], row["problem"]): row for row in rows}
    assert found["1.jsonl", "5", None]["scene"] == "home"
    assert json.loads(found["1.jsonl", None, "invalid_id"]["raw"])["scene"] == "home"
    # Where some line has the key, the file's cells count, however late it comes.
    assert found["2.jsonl", "2000", None]["scene"] == "its own" and found["2.jsonl", "5", None]["scene"] is None


def without_rows(folder: Path) -> list[tuple[str, Path]]:
    """Format and file, of every way to deliver nothing."""
    (folder / "0.csv").touch()
    (folder / "header.csv").write_text("u,i,other\n", encoding="utf-8")
    (folder / "blank.csv").write_text("u,i\r\n\r\n \r\n", encoding="utf-8")
    (folder / "2.csv.gz").write_bytes(gzip.compress(b""))
    (folder / "3.csv.gz").write_bytes(gzip.compress(b"u,i,t\n"))
    (folder / "4.jsonl").write_text("\n \n", encoding="utf-8")
    pq.write_table(pa.table({"x": pa.array([], pa.int64())}), folder / "5.parquet")
    kinds = {".gz": "csv", ".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
    return [(kinds[file.suffix], file) for file in sorted(folder.iterdir())]


def test_a_file_without_rows_is_left_out_and_never_sets_columns(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for kind, file in without_rows(tmp_path / "empty"):
        with pytest.raises(DataError, match=rf"{file.name}: the file (is empty|has no rows)"):
            stock(spark, source_of(file, format=kind))
        day = tmp_path / f"night {file.name}"
        good = write(day / f"1.{kind}", "7")
        first = stock(spark, source_of(day, format=kind)).arrivals["events"]
        for name in (f"0{file.name}", f"2{file.name}"):  # before and after the good one
            (day / name).write_bytes(file.read_bytes())
        write(day / f"3.{kind}", "8")
        for known, taken in (([], [good, day / f"3.{kind}"]), (known_of(*first), [day / f"3.{kind}"])):
            intake = stock(spark, source_of(day, format=kind), known)
            assert [arrival.file for arrival in intake.arrivals["events"]] == taken
            assert sum("it is left out tonight" in line for line in intake.messages) == 2
        (day / f"3.{kind}").unlink()
        assert stock(spark, source_of(day, format=kind), known_of(*first)).arrivals["events"] == []


def test_a_taken_file_that_has_no_rows_any_more(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "1.csv", "7"), write(tmp_path / "2.csv", "8")
    source = source_of(tmp_path / "*.csv")
    known = known_of(*stock(spark, source).arrivals["events"])
    (tmp_path / "2.csv").write_text("u,i,t\n", encoding="utf-8")
    assert any("2.csv: the file has no rows" in line for line in stock(spark, source, known).messages)
    with pytest.raises(DataError, match=r"2\.csv: empty now, and was not when it was taken; --full would lose"):
        stock(spark, source, known, full=True)


@pytest.mark.parametrize("damage", [lambda data: data[:-12], lambda data: data[:9] + b"\xff" * 9 + data[18:]])
def test_a_damaged_archive_is_named(spark: SparkSession, tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "1.csv.gz").write_bytes(damage(gzip.compress(b"u,i,t\n")))
    with pytest.raises(DataError, match=r"1\.csv\.gz: cannot be unpacked, damaged or cut off"):
        stock(spark, source_of(tmp_path / "1.csv.gz"))


def test_a_file_that_cannot_be_read_is_named_as_it_is(spark: SparkSession, tmp_path: Path) -> None:
    file = write(tmp_path / "mein log ä" / "1+1 100%.parquet", "7")
    events = read_source(spark, source_of(file)).events
    file.write_bytes(b"PAR1" + bytes(500) + b"PAR1")  # damaged between the look at its columns and the reading
    with pytest.raises(DataError) as stopped, unreadable_files():
        events.collect()
    assert str(stopped.value).startswith(f"{file}: cannot be read")


def test_a_delta_table_whose_path_deltas_library_cannot_take_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Delta table .*team \[eu\].*: its path must not have '\['"):
        stock(spark, source_of(tmp_path / "team [eu]", format="delta"))


def part_of(raw: DataFrame, *files: Path) -> Part:
    arrivals = [Arrival(path=str(file), file=file, columns={}, sequence=n) for n, file in enumerate(files)]
    items = raw.select("item_id").distinct()
    return Part(table=EVENTS, cleaned=clean_events(raw, items, not_after=datetime.now(UTC)), arrivals=arrivals)


def test_a_file_of_which_no_row_came_stops_the_night(spark: SparkSession, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.csv", str(n)) for n in (1, 2, 3)]
    raw = read_source(spark, source_of(tmp_path / "*.csv")).events
    part_of(raw, *files).require_rows_of_every_file()
    lost = raw.where(F.col("user_id") != "2")  # as when Spark reads another file than the one that was listed
    with pytest.raises(DataError, match=r"2\.csv: it has rows, but Spark read none of them"):
        part_of(lost, *files).require_rows_of_every_file()
    with pytest.raises(DataError, match=r"3\.csv: Spark read it, but the source does not name it"):
        part_of(raw, *files[:2]).require_rows_of_every_file()
