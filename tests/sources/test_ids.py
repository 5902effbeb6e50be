"""One rule for ids in every format: text, or a whole number to the last digit; all else is rejected and not merged."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.errors import SchemaError
from precise_core.intake.cleaning import clean_events, clean_impressions
from precise_core.intake.read import read_source
from precise_core.sources.cells import Need
from precise_core.sources.config import FilesSource
from precise_core.sources.files import read_mapped
from precise_core.sources.text_formats import json_cells
from schemas import columns as c

NOW = datetime(2030, 1, 1, tzinfo=UTC)
BIG = 2**53 + 1  # the smallest whole number that a double cannot hold
WRONG, MISSING = "invalid_id", "missing_user_id"

# What is stored of each kind of column, and the ids (or reasons) that it must give.
STORED: dict[str, tuple[pa.Array, list[str]]] = {
    "int8": (pa.array([7, None], pa.int8()), ["7", MISSING]),
    "int64": (pa.array([BIG, -3]), [str(BIG), "-3"]),
    "uint64": (pa.array([2**64 - 1, BIG], pa.uint64()), [str(2**64 - 1), str(BIG)]),
    "double": (
        pa.array([1.0, None, 7.5, float("nan"), float("inf"), 1e20, float(BIG), 2.0**53 - 1, -0.0]),
        ["1", MISSING, WRONG, MISSING, WRONG, WRONG, WRONG, str(2**53 - 1), "0"],
    ),
    "float": (pa.array([3.0, 2.0**24, 2.0**24 - 1], pa.float32()), ["3", WRONG, str(2**24 - 1)]),
    "decimal": (pa.array([Decimal(7), Decimal(10**37)], pa.decimal128(38, 0)), ["7", str(10**37)]),
    "scaled": (
        pa.array([Decimal("7.00"), Decimal("7.50"), Decimal(BIG), None], pa.decimal128(20, 2)),
        ["7", WRONG, str(BIG), MISSING],
    ),
    "text": (pa.array(["7.0", " 7", "7"]), ["7.0", " 7", "7"]),
    "large": (pa.array(["é", ""], pa.large_string()), ["é", MISSING]),
    "dictionary": (pa.array(["x", None, "x"]).dictionary_encode(), ["x", MISSING, "x"]),
    "numbers": (pa.array([5, 6]).dictionary_encode(), ["5", "6"]),
    "bytes": (pa.array(["café".encode(), b"caf\xe9", b"caf\xe8"]), ["café", WRONG, WRONG]),
    "nothing": (pa.nulls(2), [MISSING, MISSING]),
}


def source(path: Path, **changes: Any) -> FilesSource:
    events = {"path": str(path), "user": "u", "item": "i", "time": "t", "time_reading": {"unit": "seconds"}, **changes}
    return FilesSource.model_validate({"kind": "files", "events": events})


def found_in(spark: SparkSession, read: FilesSource, by: Callable[[Any], str]) -> dict[str, list[str]]:
    """User id, or the reason against it, of every row in the order of its time, by what ``by`` says of its file."""
    raw = read_source(spark, read)
    items = raw.events.select(c.ITEM_ID).distinct()
    rows = clean_events(raw.events, items, not_after=NOW).checked.collect()
    found = defaultdict(list)
    for row in sorted(rows, key=lambda row: row[c.EVENT_TS]):
        found[by(row)].append(row[c.REASON] or row[c.USER_ID])
    return dict(found)


def rows_of(users: pa.Array, item: str = "a") -> pa.Table:
    times = pa.array(range(1_700_000_000, 1_700_000_000 + len(users)))
    return pa.table({"u": users, "i": pa.array([item] * len(users)), "t": times})


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> FilesSource:
    """A log of one file per storage, whose events are on the item of its name."""
    folder = tmp_path_factory.mktemp("stored")
    for name, (users, _) in STORED.items():
        pq.write_table(rows_of(users, name), folder / f"{name}.parquet")
    return source(folder / "*.parquet")


def test_parquet_files_of_every_storage_are_read_together(spark: SparkSession, stored: FilesSource) -> None:
    found = found_in(spark, stored, lambda row: row[c.ITEM_ID])
    assert found == {name: expected for name, (_, expected) in STORED.items()}


def test_a_whole_column_with_one_gap_as_pandas_writes_it(spark: SparkSession, tmp_path: Path) -> None:
    frame = pd.DataFrame({"u": [1, 2, None], "i": [10, 20, 30], "t": [1_700_000_000, 1_700_000_001, 1_700_000_002]})
    frame.to_parquet(tmp_path / "log.parquet", index=False)
    assert pq.read_schema(tmp_path / "log.parquet").field("u").type == pa.float64()
    found = found_in(spark, source(tmp_path / "log.parquet"), lambda _: "all")
    assert found == {"all": ["1", "2", MISSING]}


def test_every_kind_of_id_follows_the_rule_in_a_delta_table(spark: SparkSession, tmp_path: Path) -> None:
    ids = pa.array([Decimal("4.0"), Decimal("4.5")], pa.decimal128(5, 1))
    floats = pa.array([4.0, 5.0])
    table = rows_of(floats).append_column("e", ids).append_column("s", floats).append_column("d", floats)
    write_deltalake(str(tmp_path / "log"), table)
    read = source(tmp_path / "log", format="delta", event_id="e", scene={"column": "s"}, action={"column": "d"})
    raw = read_source(spark, read).events.orderBy(c.EVENT_TS).collect()
    assert [row[name] for name in (c.EVENT_ID, c.USER_ID, c.SCENE, c.ACTION) for row in raw] == [
        *("4", None),
        *("4", "5") * 3,
    ]
    assert [row["problem"] for row in raw] == [None, WRONG]


def test_impressions_follow_the_same_rule(spark: SparkSession, tmp_path: Path) -> None:
    shown = {"u": [1.0, 2.0], "i": [3.0, 3.5], "t": [1_700_000_000] * 2, "y": [1, 0], "k": [8.0, 9.0]}
    pq.write_table(pa.table(shown), tmp_path / "shown.parquet")
    pq.write_table(rows_of(pa.array(["x"])), tmp_path / "log.parquet")
    named = {"user": "u", "item": "i", "time": "t", "label": "y", "impression_id": "k"}
    impressions = {**named, "path": str(tmp_path / "shown.parquet"), "time_reading": {"unit": "seconds"}}
    described = source(tmp_path / "log.parquet").model_dump() | {"impressions": impressions}
    raw = read_source(spark, FilesSource.model_validate(described)).impressions
    assert raw is not None
    items = spark.createDataFrame([("3",)], f"{c.ITEM_ID} string")
    checked = clean_impressions(raw, items, not_after=NOW).checked.orderBy(c.USER_ID).collect()
    found = [(row[c.USER_ID], row[c.ITEM_ID], row[c.REASON]) for row in checked]
    assert found == [("1", "3", None), ("2", None, WRONG)]
    assert checked[0][c.IMPRESSION_ID] == "8" and json.loads(checked[1][c.RAW])["k"] == 9


@pytest.mark.parametrize(
    "users",
    [
        pa.array([True, False]),
        pa.array([date(2024, 1, 1)] * 2),
        pa.array([NOW] * 2, pa.timestamp("us", "UTC")),
        pa.array([["a"], ["b"]]),
        pa.array([b"ab", b"cd"], pa.binary(2)),
    ],
)
def test_a_column_that_can_never_be_an_id_is_refused(spark: SparkSession, tmp_path: Path, users: pa.Array) -> None:
    pq.write_table(rows_of(users), tmp_path / "log.parquet")
    with pytest.raises(SchemaError, match=r"log\.parquet: column 'u' is .*; allowed is text or whole numbers"):
        read_source(spark, source(tmp_path / "log.parquet"))


LITERALS = {
    '"7.0"': "7.0",
    '"true"': "true",
    '"[1]"': "[1]",
    '"NaN"': "NaN",
    '"1e7"': "1e7",
    '"\\"q"': '"q',
    "7": "7",
    "7.0": "7",
    "10000000.0": "10000000",
    "1e7": "10000000",
    "1.5E1": "15",
    "-0.0": "0",
    "12345678901234567890123": "12345678901234567890123",
    str(BIG): str(BIG),
    f"{BIG}.0": str(BIG),
    "7.5": WRONG,
    "1e20": "1" + 20 * "0",
    "1e400": "1" + 400 * "0",
    "1e999999999": WRONG,
    "1e99999999999999999999": WRONG,
    "Infinity": WRONG,
    "NaN": MISSING,
    "null": MISSING,
    "true": WRONG,
    "[1]": WRONG,
    '{"a": 1, "a": 2}': WRONG,
}


def json_log(folder: Path, literals: list[str]) -> Path:
    lines = [f'{{"u": {text}, "i": "a", "t": {1_700_000_000 + place}}}' for place, text in enumerate(literals)]
    file = folder / "log.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_a_number_of_json_is_an_id_where_it_is_whole_and_text_stays_as_it_is(
    spark: SparkSession, tmp_path: Path
) -> None:
    found = found_in(spark, source(json_log(tmp_path, list(LITERALS))), lambda _: "all")
    assert dict(zip(LITERALS, found["all"], strict=True)) == LITERALS


def _expected(literal: str) -> str:
    value = json.loads(literal, parse_float=Decimal)
    if isinstance(value, str):
        return value or MISSING
    if isinstance(value, int):
        return str(value)
    return str(int(value)) if value == int(value) else WRONG


NUMBERS = st.one_of(
    st.integers(-(10**30), 10**30).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(2**54), 2**54).map(lambda number: f"{float(number)!r}"),
    st.decimals(-(10**6), 10**6, places=2).map(str),
)
TEXTS = st.one_of(NUMBERS, st.sampled_from(["true", "{", "[]", "1e5x", "a b", "7."])).map(json.dumps)


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(literals=st.lists(NUMBERS | TEXTS, min_size=150, max_size=300))
def test_ids_of_json_are_what_pythons_reader_says(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, literals: list[str]
) -> None:
    found = found_in(spark, source(json_log(tmp_path_factory.mktemp("json"), literals)), lambda _: "all")
    assert found["all"] == [_expected(literal) for literal in literals]


def test_a_rejected_row_that_is_judged_again_has_the_same_ids(spark: SparkSession, stored: FilesSource) -> None:
    columns = [c.ITEM_ID, c.EVENT_TS, c.USER_ID, "problem"]
    raw = read_source(spark, stored).events.where(f"{c.ITEM_ID} != 'bytes'").persist()

    def read(needs: Sequence[Need]) -> DataFrame:
        return json_cells(raw, needs, F.col(c.RAW), F.col(c.SOURCE_FILE))

    again = read_mapped(spark, stored.events, read).select(*columns)
    differs = [tuple(row) for row in again.exceptAll(raw.select(*columns)).collect()]
    assert raw.count() == sum(len(ids) for _, ids in STORED.values()) - len(STORED["bytes"][1])
    # What is too large for a float is shown as a gap, and stays rejected.
    inexact = [(name, None, None) for name, number in (("double", 3), ("float", 1)) for _ in range(number)]
    assert sorted((row[0], row[2], row[3]) for row in differs) == inexact
