"""Files that tasks write: nobody sees them before their commit, and their names say what is in them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from precise_core.errors import DataError
from precise_core.warehouse.tables import Warehouse
from precise_core.warehouse.task_files import TaskFiles, write_file
from schemas import USER_SEQUENCES

MICROS = pa.timestamp("us", tz="UTC")


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(str(tmp_path / "warehouse"))


def files_of(warehouse: Warehouse, *users: str) -> TaskFiles:
    """A sequence of one event per user, of the task `né`."""
    rows = pa.table(
        {
            "user_id": list(users),
            "item_indices": pa.array([[2]] * len(users), pa.list_(pa.int32())),
            "scenes": [["live"]] * len(users),
            "event_ts": pa.array([[7]] * len(users), pa.list_(MICROS)),
            "length": pa.array([1] * len(users), pa.int32()),
            "last_event_ts": pa.array([7] * len(users), MICROS),
        }
    )
    path = warehouse.path(USER_SEQUENCES)
    return TaskFiles(path, USER_SEQUENCES, [write_file(path, rows, {"task": "né", "bucket": 1})])


def on_disk(warehouse: Warehouse) -> int:
    return len(list(Path(warehouse.path(USER_SEQUENCES)).rglob("*.parquet")))


def test_they_are_the_table_after_one_commit_and_only_where_rows_differ(
    spark: SparkSession, warehouse: Warehouse
) -> None:
    with files_of(warehouse, "u1", "u2") as files:
        assert not warehouse.exists(USER_SEQUENCES)
        first = warehouse.write_files(spark, files, run_id="first", note={"made": "of this"})
    assert (first.version, first.rows, first.changed) == (1, 2, True)
    stored = warehouse.read(spark, USER_SEQUENCES, 1)
    assert sorted((row["user_id"], row["task"], row["bucket"]) for row in stored.collect()) == [
        ("u1", "né", 1),
        ("u2", "né", 1),
    ]
    delta = spark.read.format("delta").load(warehouse.path(USER_SEQUENCES))
    assert sorted(delta.collect()) == sorted(stored.collect())
    note = warehouse.note(USER_SEQUENCES, 1)
    assert note is not None and note.content == {"made": "of this"}
    with files_of(warehouse, "u2", "u1") as files:
        again = warehouse.write_files(spark, files, run_id="again")
    assert (again.version, again.changed, on_disk(warehouse)) == (1, False, 1)
    with files_of(warehouse, "u3") as files:
        assert warehouse.write_files(spark, files, run_id="other").version == 2
    assert (
        warehouse.read(spark, USER_SEQUENCES, 2).count() == 1 and warehouse.read(spark, USER_SEQUENCES, 1).count() == 2
    )


def test_what_is_refused_is_removed(spark: SparkSession, warehouse: Warehouse) -> None:
    def refuse(_: object) -> None:
        raise DataError("refused")

    with pytest.raises(DataError, match="refused"), files_of(warehouse, "u1") as files:
        warehouse.write_files(spark, files, run_id="first", check=refuse)
    assert on_disk(warehouse) == 0 and not warehouse.exists(USER_SEQUENCES)


def test_a_flipped_bit_is_found_before_a_row_is_read(spark: SparkSession, warehouse: Warehouse) -> None:
    with files_of(warehouse, "u1") as files:
        warehouse.write_files(spark, files, run_id="first")
    warehouse.read(spark, USER_SEQUENCES, 1)
    (file,) = Path(warehouse.path(USER_SEQUENCES)).rglob("*.parquet")
    data = bytearray(file.read_bytes())
    data[40] ^= 0b100
    file.write_bytes(data)
    with pytest.raises(DataError, match=rf"{file.name}: cannot be read, it is damaged: its SHA-256 is not that of"):
        warehouse.read(spark, USER_SEQUENCES, 1)


def test_files_of_a_commit_that_landed_and_raised_all_the_same_are_kept(warehouse: Warehouse) -> None:
    """The entry of the log is there; the checkpoint that follows it cannot be written."""
    warehouse.create_if_missing(USER_SEQUENCES)
    log = Path(warehouse.path(USER_SEQUENCES)) / "_delta_log"
    DeltaTable(warehouse.path(USER_SEQUENCES)).alter.set_table_properties({"delta.checkpointInterval": "1"})
    (log / "_last_checkpoint").unlink(missing_ok=True)
    (log / "_last_checkpoint").mkdir()
    with pytest.raises(OSError), files_of(warehouse, "u1") as files:
        files.commit("{}")
    assert (log / f"{2:020}.json").is_file()
    assert [Path(warehouse.path(USER_SEQUENCES), file.name).is_file() for file in files.files] == [True]
