"""Every documented way to read gives every table whole: several slices, no rows, and folders with any name."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable, QueryBuilder, write_deltalake
from pyspark.sql import SparkSession

from precise_core import consume
from precise_core.config import load_config
from precise_core.errors import ConfigError, HistoryGoneError, SchemaError
from precise_core.settings import Settings
from schemas import RECALL_CANDIDATES, TABLES, Table
from tests.night import CONFIG, copy_of

FOLDER = "Küche & Bad/50% a+b #1 [x] {y} 日本"
Row = dict[str, Any]


def value(kind: pa.DataType, n: int) -> Any:
    """The n-th value of a type; texts include some that look like numbers and dates."""
    if pa.types.is_map(kind):
        return [(f"k{m}", value(kind.item_type, n + m)) for m in range(n % 3)]
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return [value(kind.value_type, n + m) for m in range(3)]
    if pa.types.is_struct(kind):
        return {field.name: value(field.type, n) for field in kind}
    made = {
        "string": ["all", "2024", "01", "1.0", "2024-01-01", "true", "größe", "a b"][n % 8],
        "bool": n % 2 == 0,
        "date32[day]": date(2024, 1, 1) + timedelta(days=n),
        "timestamp[us, tz=UTC]": datetime(2024, 1, 1, tzinfo=UTC) + timedelta(microseconds=n),
    }
    return made.get(str(kind), float(n) if pa.types.is_floating(kind) else n)


def rows_of(table: Table, numbers: range) -> list[Row]:
    schema = table.arrow_schema()
    return [{f.name: None if f.nullable and n % 5 == 0 else value(f.type, n) for f in schema} for n in numbers]


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every table there is: empty at first, then eight rows in as many slices, then four more."""
    folder = tmp_path_factory.mktemp("reading")
    for table in TABLES:
        path = folder / "tables" / table.name
        path.mkdir(parents=True)
        for numbers in (range(0), range(8), range(8, 12)):
            rows = pa.Table.from_pylist(rows_of(table, numbers), schema=table.arrow_schema())
            write_deltalake(str(path), rows, mode="append", partition_by=list(table.partition_by) or None)
    root = folder / FOLDER / "warehouse"
    root.mkdir(parents=True)
    return (folder / "tables").rename(root / "tables").parent


def plain(found: Any) -> Any:
    """A value as Python has it, whatever an engine made of maps, lists and time zones."""
    if isinstance(found, dict):
        keyed = list(found) if set(found) == {"key", "value"} else found
        return sorted((key, plain(entry)) for key, entry in keyed.items()) if isinstance(keyed, dict) else found
    if isinstance(found, list | tuple):
        return [plain(entry) for entry in found]
    return found.astimezone(UTC) if isinstance(found, datetime) else found


def content(table: Table, rows: list[Row]) -> list[str]:
    """Rows in a form that can be compared; a map is its pairs, in their order by key."""
    maps = [field.name for field in table.arrow_schema() if pa.types.is_map(field.type)]
    ordered = [{name: row[name] for name in table.column_names} for row in rows]
    for row in ordered:
        for name in maps:
            row[name] = sorted(dict(row[name]).items()) if row[name] is not None else None
    return sorted(repr({name: plain(entry) for name, entry in row.items()}) for row in ordered)


def stream(root: Path, table: Table, version: int | None = None) -> Any:
    delta = DeltaTable(str(root / "tables" / table.name), version=version)
    return QueryBuilder().register("t", delta).execute("SELECT * FROM t")


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_way_reads_every_table_in_every_version(warehouse: Path, table: Table) -> None:
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    for version, count in ((0, 0), (1, 8), (2, 12), (None, 12)):
        expected = content(table, rows_of(table, range(count)))
        ours = consume.read_table(warehouse, table.name, version=version)
        assert ours.schema.equals(table.arrow_schema()) and content(table, ours.to_pylist()) == expected
        frame = ours.to_pandas()
        assert list(frame.columns) == table.column_names and len(frame) == count
        assert content(table, pl.DataFrame(stream(warehouse, table, version)).to_dicts()) == expected
        found = database.from_arrow(stream(warehouse, table, version))
        rows = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
        assert content(table, rows) == expected


def test_rows_columns_and_versions_can_be_chosen(warehouse: Path) -> None:
    some = consume.read_table(
        warehouse, "recall_candidates", ["user_id", "task"], where=ds.field("task") == "2024", version=1
    )
    expected = [row for row in rows_of(RECALL_CANDIDATES, range(8)) if row["task"] == "2024"]
    assert some.to_pylist() == [{"user_id": row["user_id"], "task": "2024"} for row in expected]
    assert consume.read_table(warehouse, "recall_candidates", []).num_columns == 0
    with pytest.raises(SchemaError, match=r"recall_candidates has no columns \['usr'\]; its columns are user_id, task"):
        consume.read_table(warehouse, "recall_candidates", ["user_id", "usr"])
    with pytest.raises(HistoryGoneError, match="recall_candidates: version 99 cannot be read any more"):
        consume.read_table(warehouse, "recall_candidates", version=99)


def test_what_jobs_wrote_is_read_below_any_folder(night: Path, tmp_path: Path, spark: SparkSession) -> None:
    root = copy_of(night, tmp_path / FOLDER / "warehouse")
    sizes = consume.freshness(root).set_index("table")["rows"]
    for name, rows in sizes.items():
        assert consume.read_table(root, str(name)).num_rows == rows
    events = consume.read_table(root, "events")
    assert spark.read.format("delta").load(f"{root}/tables/events").count() == events.num_rows
    shown = consume.read_table(root, "impressions").to_pandas()
    for version in (consume.PUBLISHED, consume.AS_OF):
        joined = consume.join_vectors(shown, root, at="impression_ts", version=version)
        there = consume.join_vectors(shown, night, at="impression_ts", version=version)
        assert len(joined) == len(shown) and joined["precise_score"].equals(there["precise_score"])


@pytest.mark.parametrize("name", ["a%20b", "100%25", "a\\b", "a[b", "a|b"])
def test_a_name_that_would_be_read_as_another_is_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / name / "warehouse"
    root.mkdir(parents=True)
    message = "warehouse .*: its path must not have .*"
    with pytest.raises(ConfigError, match=message):
        load_config(CONFIG, Settings, [f"warehouse='{root}'"])
    if "%" in name or "\\" in name:
        with pytest.raises(ConfigError, match=message):
            consume.read_table(root, "events")
