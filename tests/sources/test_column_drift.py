"""Columns may change how they are stored, not what they are; what the configuration does not name only warns."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from precise_core.errors import SchemaError
from precise_core.intake.read import read_source
from precise_core.intake.stock import Intake, Policy, decide_what_to_read
from precise_core.sources.column_drift import columns_to_remember, differences, is_same_kind
from precise_core.sources.config import FilesSource
from tests.ingest_world import Shop, told

NOON = 1_709_294_400_000_000  # 1 March 2024, in microseconds

SAME = [
    ("string", "large_string", "dictionary<values=string, indices=int32, ordered=0>", "binary", "varchar(9)", "text"),
    ("int8", "uint64", "bigint", "tinyint", "int", "decimal128(38, 0)", "decimal(20,0)", "double", "number"),
    ("float", "halffloat", "double", "decimal128(10, 2)", "decimal(10,2)", "number"),
    ("timestamp[ns]", "timestamp[us, tz=UTC]", "timestamp[s, tz=Europe/Berlin]", "timestamp", "timestamp_ntz"),
    ("date32[day]", "date64[ms]", "date"),
    ("bool", "boolean"),
    (
        "list<item: string>",
        "large_list<element: large_string>",
        "list_view<item: string_view>",
        "array<string>",
        "list<element: string not null>",
        "list",
    ),
    ("time64[us]", "time64[ns]", "time32[s]"),
    ("struct<a: int64>", "struct<a:bigint>", "object", "map<string, string>"),
]
ANYTHING = ["null", "void", "any"]


def test_a_kind_is_one_in_every_spelling() -> None:
    for group in SAME:
        for one in group:
            assert all(is_same_kind(one, other) and is_same_kind(other, one) for other in (*group, *ANYTHING)), one
    numbers = {"double", "number"}  # in both groups of numbers
    for place, group in enumerate(SAME):
        others = [other for rest in SAME[place + 1 :] for other in rest if other not in numbers]
        if place == 1:
            others = [other for other in others if other not in SAME[2]]
        assert not [(one, other) for one in group for other in others if is_same_kind(one, other)]


def test_a_column_that_is_null_tonight_stays_what_it_was() -> None:
    kept = columns_to_remember({"u": "string", "x": "int64"}, {"u": "null", "x": "null", "y": "null"}, is_open=False)
    assert kept == {"u": "string", "x": "int64", "y": "null"}
    assert differences(kept, {"u": "int64"}, [("u", "id")], is_open=False)[0] == ["column 'u' was string and is int64"]
    assert columns_to_remember(kept, {"y": "double"}, is_open=False) == {"y": "double"}


def test_only_text_shows_that_whole_numbers_have_become_doubles() -> None:
    def warned(role: str) -> list[str]:
        found: Any = [("x", role)]
        refused, warnings = differences({"x": "int64"}, {"x": "double"}, found, is_open=False)
        assert not refused
        return warnings

    assert [bool(warned(role)) for role in ("id", "time", "number", "text", "texts")] == [False] * 3 + [True] * 2


def log(**columns: Any) -> pa.Table:
    """A file of one event."""
    plain = {"id": ["1"], "who": ["7"], "what": ["a"], "at": pa.array([NOON], pa.timestamp("us"))}
    return pa.table({**plain, "did": ["click"], **columns})


class Manifest:
    """What `source_files` would hold after the nights so far, without running them."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self.spark, self.folder = spark, folder
        self.records: list[dict[str, Any]] = []
        events = {"path": str(folder / "*.parquet"), "user": "who", "item": "what", "time": "at", "event_id": "id"}
        events["action"] = {"column": "did"}
        self.source = FilesSource.model_validate({"kind": "files", "events": events})

    def night(self, *numbers: int, rows: int = 1, evolve: bool = False) -> Intake:
        for number in numbers:
            pq.write_table(log(id=[str(number)], **NIGHTS[number - 1]), self.folder / f"{number}.parquet")
        intake = decide_what_to_read(self.spark, self.source, self.records, {"events": "t"}, Policy(evolve=evolve))
        for arrival in intake.arrivals["events"]:
            self.records.append(arrival.record("events", "t", rows, "run", datetime.now(UTC)))
        return intake


# Night after night the same log in other storage; `more` and `other` are columns that the configuration does not name.
NIGHTS: list[dict[str, Any]] = [
    {"more": pa.array([1], pa.int32())},
    {"what": pa.array(["a"], pa.large_string()), "more": pa.array([1], pa.int64())},
    {"who": pa.array(["7"]).dictionary_encode(), "at": pa.array([NOON * 1000], pa.timestamp("ns")), "more": [None]},
    {"at": pa.array([NOON // 1000], pa.timestamp("ms", "UTC")), "more": [1.5]},
    {"did": pa.nulls(1), "more": ["text"]},
    {"did": ["click"], "other": [True]},
    {"who": [8]},
    {"who": ["7"]},
]


def test_files_of_another_storage_are_one_source(spark: SparkSession, tmp_path: Path) -> None:
    nights = Manifest(spark, tmp_path)
    first = nights.night(1, 2, 3)
    assert not [line for line in first.messages if "column" in line]
    # An earlier version wrote down how the last file was stored.
    older = {"string": "large_string", "timestamp[us]": "timestamp[ns]"}
    for record in nights.records:
        record["columns"] = {name: older.get(kind, kind) for name, kind in record["columns"].items()}
    assert not [line for line in nights.night(4).messages if "column" in line]
    unread = "; the configuration does not name it"
    assert [line for line in nights.night(5, 6).messages if "column" in line] == [
        f"events: warning: 5.parquet: column 'more' was double and is string{unread}",
        f"events: warning: 6.parquet: column 'other' is new{unread}",
        f"events: warning: 6.parquet: column 'more' is gone{unread}",
    ]
    with pytest.raises(SchemaError, match="7.parquet: its columns differ .* column 'who' was string and is int64"):
        nights.night(7)
    last = nights.night(evolve=True)
    raw = read_source(spark, nights.source, {"events": [*first.batches["events"], *last.batches["events"]]}).events
    found = {tuple(row) for row in raw.select("event_id", "user_id", "item_id", F.unix_micros("event_ts")).collect()}
    assert found == {("1", "7", "a", NOON), ("2", "7", "a", NOON), ("3", "7", "a", NOON), ("7", "8", "a", NOON)}


def test_a_file_without_rows_says_nothing_about_columns(spark: SparkSession, tmp_path: Path) -> None:
    nights = Manifest(spark, tmp_path)
    nights.night(1)
    nights.night(7, rows=0, evolve=True)
    assert not [line for line in nights.night(8).messages if "column 'who'" in line]


@pytest.mark.faults
@pytest.mark.usefixtures("spark")
def test_a_whole_column_may_get_a_gap_and_lose_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = Shop(tmp_path)
    shop.spec["path"] = str(tmp_path / "log" / "*.parquet")

    def day(name: str, who: Any) -> None:
        size = len(who)
        frame = {"id": [f"{name}-{row}" for row in range(size)], "who": who, "what": ["a"] * size}
        pd.DataFrame({**frame, "at": ["2024-03-01T08:00:00Z"] * size, "did": "click"}).to_parquet(
            tmp_path / "log" / f"{name}.parquet", index=False
        )

    day("1", [1, 2])
    assert shop.run("ingest") == 0
    day("2", [1, None, 3])
    day("3", [Decimal(1), Decimal(4)])
    day("4", pd.array([5], "UInt8"))
    assert shop.run("ingest") == 0
    assert sorted(user for user, *_ in shop.events().values()) == ["1", "1", "1", "2", "3", "4", "5"]
    assert shop.reasons() == {"missing_user_id": 1}
    assert not told(capsys, "column 'who'")


def _delta(folder: Path, frame: pa.Table) -> None:
    write_deltalake(str(folder / "clicks"), frame, mode="overwrite", schema_mode="overwrite")


def _lines(folder: Path, frame: pa.Table) -> None:
    number = len(list((folder / "log").iterdir()))
    rows = "".join(json.dumps(row, default=str) + "\n" for row in frame.to_pylist())
    (folder / "log" / f"{number}.jsonl").write_text(rows, encoding="utf-8")


@pytest.mark.faults
@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize(
    ("write", "spec"),
    [(_delta, {"path": "clicks", "format": "delta"}), (_lines, {"path": "log/*.jsonl"})],
)
def test_other_formats_drift_by_the_same_rule(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    write: Callable[[Path, pa.Table], None],
    spec: dict[str, str],
) -> None:
    shop = Shop(tmp_path, **spec | {"path": str(tmp_path / spec["path"])})
    whole = pa.array([7], pa.int32())
    write(tmp_path, log(who=whole, more=[1]))
    assert shop.run("ingest") == 0
    write(tmp_path, log(id=["2"], who=pa.array([7.0]), at=pa.array([NOON // 1000], pa.timestamp("ms", "UTC"))))
    assert shop.run("ingest") == 0
    write(tmp_path, log(id=["3"], who=pa.array([7]), more=["x"]))
    assert shop.run("ingest") == 0
    assert {user for user, *_ in shop.events().values()} == {"7"} and len(shop.events()) == 3
    write(tmp_path, log(id=["4"]))
    assert shop.run("ingest") == 2
    assert told(capsys, "its columns differ from those taken before: column 'who' was")
