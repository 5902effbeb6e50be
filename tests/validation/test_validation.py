"""Every gate passes good rows, names each defect with its count, reads the frame once and repeats no user's value."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.errors import SparkRuntimeException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StructField, StructType

from precise_core.errors import ValidationError
from precise_core.warehouse.tables import Warehouse
from schemas import (
    EVENTS,
    IMPRESSIONS,
    ITEM_EMBEDDINGS,
    ITEMS,
    USER_EMBEDDINGS,
    USER_SEQUENCES,
    VALIDATION_RESULTS,
    Table,
)
from validation.gate import GateResult, gate

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
AS_OF = datetime(2024, 3, 2, tzinfo=UTC)

NULL = "expect_column_values_to_not_be_null"
BETWEEN = "expect_column_values_to_be_between"
LENGTHS = "expect_column_value_lengths_to_be_between"
IN_SET = "expect_column_values_to_be_in_set"
DISTINCT = "expect_column_unique_value_count_to_be_between"
COLUMNS = "expect_table_columns_to_match_ordered_list"
TYPE = "expect_column_values_to_be_of_type"

Row = dict[str, Any]


def event(number: int, **changes: Any) -> Row:
    row = {"event_id": f"e{number}", "user_id": "alice", "item_id": "milk", "scene": "shop", "action": "click"}
    return row | {"event_ts": NOON, "event_date": NOON.date(), "value": 1.0, "file_sequence": 1} | changes


def item(number: int, **changes: Any) -> Row:
    row = {"item_id": f"i{number}", "title": "Milk", "description": "", "categories": ["dairy"], "attributes": {}}
    return row | {"published_ts": None, "updated_ts": None, "is_deleted": False, "file_sequence": None} | changes


def impression(number: int, **changes: Any) -> Row:
    row = {"impression_id": f"m{number}", "user_id": "alice", "item_id": "milk", "impression_ts": NOON}
    return row | {"label": number % 2, "context": {}, "file_sequence": 2} | changes


def sequence(number: int, **changes: Any) -> Row:
    times = [NOON, NOON, NOON + timedelta(seconds=1)]
    row: Row = {"user_id": f"u{number}", "task": "all", "item_indices": [1, 2, 3], "scenes": ["a", "b", "a"]}
    row |= {"event_ts": times, "length": 3, "last_event_ts": times[-1], "bucket": 0}
    return row | changes


def item_embedding(number: int, **changes: Any) -> Row:
    row = {"item_id": f"i{number}", "item_index": number + 2, "model_version": "v1", "embedding": [0.5, 0.0, -2.0]}
    return row | {"embedded_at": NOON, "is_cold": False, "text_hash": "h", "query_embedding": [1.0, 2.0, 0.0]} | changes


def user_embedding(number: int, **changes: Any) -> Row:
    row = {"user_id": f"u{number}", "task": "all", "model_version": "v1", "embedding": [0.5, 0.0, -2.0]}
    return row | {"as_of": AS_OF, "sequence_hash": 7} | changes


PARAMETERS: dict[str, Row] = {
    "events": {"latest": AS_OF, "actions": ["click", "share"]},
    "items": {},
    "impressions": {"latest": AS_OF},
    "user_sequences": {"max_length": 3, "as_of": AS_OF, "tasks": ["all", "share"]},
    "item_embeddings": {"width": 3},
    "user_embeddings": {"width": 3, "tasks": ["all", "share"]},
}
BUILDERS = [
    (EVENTS, event),
    (ITEMS, item),
    (IMPRESSIONS, impression),
    (USER_SEQUENCES, sequence),
    (ITEM_EMBEDDINGS, item_embedding),
    (USER_EMBEDDINGS, user_embedding),
]


def loose_schema(table: Table) -> StructType:
    """The declared schema with nulls allowed everywhere: what a faulty job could hand over."""

    def loose(data_type: Any) -> Any:
        return ArrayType(data_type.elementType, True) if isinstance(data_type, ArrayType) else data_type

    return StructType([StructField(field.name, loose(field.dataType), True) for field in table.spark_schema()])


def frame_of(spark: SparkSession, table: Table, rows: list[Row]) -> DataFrame:
    schema = loose_schema(table)
    return spark.createDataFrame([tuple(row[name] for name in schema.names) for row in rows], schema)


def run_gate(spark: SparkSession, table: Table, rows: list[Row], **parameters: Any) -> GateResult:
    return gate(table, frame_of(spark, table, rows), run_id="r1", **(PARAMETERS[table.name] | parameters))


def broken(result: GateResult) -> set[tuple[str, str, int]]:
    return {(r["expectation"], r["column"], r["unexpected_count"]) for r in result.records if not r["success"]}


@pytest.mark.parametrize(("table", "build"), BUILDERS, ids=lambda value: getattr(value, "name", ""))
def test_good_rows_pass_and_every_check_is_recorded_once(spark: SparkSession, table: Table, build: Any) -> None:
    result = run_gate(spark, table, [build(number) for number in range(4)])
    result.raise_on_failure()
    assert result.is_valid and not result.failures and not result.warnings
    identities = [(r["run_id"], r["table_name"], r["expectation"], r["column"]) for r in result.records]
    assert len(set(identities)) == len(identities) > len(table.columns)
    assert {r["element_count"] for r in result.records if r["expectation"] == NULL} == {4}
    pa.Table.from_pylist(result.records, schema=VALIDATION_RESULTS.arrow_schema()).validate(full=True)


DEFECTS: list[tuple[str, Table, list[Row], set[tuple[str, str, int]]]] = [
    ("null key", EVENTS, [event(0), event(1, event_id=None)], {(NULL, "event_id", 1)}),
    ("duplicate key", EVENTS, [event(0), event(1), event(1)], {(BETWEEN, "rows_with_this_key", 2)}),
    ("empty user id", EVENTS, [event(0), event(1, user_id="")], {(LENGTHS, "user_id", 1)}),
    ("unknown action", EVENTS, [event(0), event(1, action="stare")], {(IN_SET, "action", 1)}),
    ("other day", EVENTS, [event(0, event_date=date(2024, 2, 29))], {(IN_SET, "date_is_of_time", 1)}),
    (
        "future and before the epoch",
        EVENTS,
        [
            event(0, event_ts=AS_OF, event_date=AS_OF.date()),
            event(1, event_ts=AS_OF + timedelta(microseconds=1), event_date=AS_OF.date()),
            event(2, event_ts=datetime(1969, 12, 31, tzinfo=UTC), event_date=date(1969, 12, 31)),
        ],
        {(BETWEEN, "event_ts", 2)},
    ),
    (
        "value not finite",
        EVENTS,
        [event(0, value=None), event(1, value=nan), event(2, value=inf), event(3, value=-inf), event(4, value=-1.0)],
        {(BETWEEN, "value", 3)},
    ),
    ("null array", ITEMS, [item(0), item(1, categories=None)], {(NULL, "categories", 1)}),
    ("duplicate item", ITEMS, [item(0), item(0), item(0)], {(BETWEEN, "rows_with_this_key", 3)}),
    (
        "label out of range",
        IMPRESSIONS,
        [impression(0, label=-1), impression(1, label=2), impression(2)],
        {(IN_SET, "label", 2)},
    ),
    ("unequal arrays", USER_SEQUENCES, [sequence(0), sequence(1, scenes=["a"])], {(IN_SET, "arrays_have_length", 1)}),
    (
        "unsorted times",
        USER_SEQUENCES,
        [sequence(0), sequence(1, event_ts=[NOON, NOON + timedelta(seconds=1), NOON])],
        {(IN_SET, "is_in_time_order", 1)},
    ),
    (
        "wrong newest event",
        USER_SEQUENCES,
        [sequence(0, last_event_ts=NOON)],
        {(IN_SET, "last_event_is_newest", 1)},
    ),
    (
        "as of its own newest event",
        USER_SEQUENCES,
        [sequence(0, event_ts=[NOON, NOON, AS_OF], last_event_ts=AS_OF)],
        {(BETWEEN, "last_event_ts", 1)},
    ),
    (
        "empty and too long",
        USER_SEQUENCES,
        [
            sequence(
                0, item_indices=[2] * 4, scenes=["a"] * 4, event_ts=[NOON] * 4, length=4, last_event_ts=NOON
            ),  # one more than max_length
            sequence(1, item_indices=[], scenes=[], event_ts=[], length=0),
        ],
        {(BETWEEN, "length", 2), (IN_SET, "last_event_is_newest", 1)},
    ),
    (
        "padding and negative indices",
        USER_SEQUENCES,
        [sequence(0, item_indices=[0, 1, 2]), sequence(1, item_indices=[2, -1, 3]), sequence(2)],
        {(BETWEEN, "smallest_item_index", 2)},
    ),
    (
        "null elements",
        USER_SEQUENCES,
        [sequence(0, item_indices=[1, None, 3]), sequence(1, scenes=["a", None, "b"]), sequence(2)],
        {(IN_SET, "has_no_null_element", 2)},
    ),
    (
        "null array of a sequence",
        USER_SEQUENCES,
        [sequence(0, item_indices=None), sequence(1)],
        {(NULL, "item_indices", 1), (IN_SET, "arrays_have_length", 1), (IN_SET, "has_no_null_element", 1)},
    ),
    ("unknown task", USER_SEQUENCES, [sequence(0, task="stare")], {(IN_SET, "task", 1)}),
    (
        "duplicate compound key",
        USER_SEQUENCES,
        [sequence(0), sequence(0), sequence(0, task="share")],
        {(BETWEEN, "rows_with_this_key", 2)},
    ),
    (
        "vectors that are no vectors",
        ITEM_EMBEDDINGS,
        [
            item_embedding(0, embedding=[0.1, nan, 0.2]),
            item_embedding(1, embedding=[0.0, -0.0, 0.0]),
            item_embedding(2, embedding=[1.0, inf, 0.0]),
            item_embedding(3, embedding=[1.0, -inf, 0.0]),
            item_embedding(4, embedding=[0.0, 0.0, -1e-30]),
        ],
        {(BETWEEN, "norm", 4)},
    ),
    (
        "width",
        ITEM_EMBEDDINGS,
        [item_embedding(0, embedding=[1.0, 2.0]), item_embedding(1, embedding=[]), item_embedding(2)],
        {(BETWEEN, "width", 2), (BETWEEN, "norm", 1)},
    ),
    (
        "null component",
        ITEM_EMBEDDINGS,
        [item_embedding(0, embedding=[1.0, None, 2.0]), item_embedding(1)],
        {(IN_SET, "has_no_null_element", 1)},
    ),
    (
        "query vectors that are no vectors; older rows have none",
        ITEM_EMBEDDINGS,
        [
            item_embedding(number, query_embedding=vector)
            for number, vector in enumerate([None, [nan, 0.0, 1.0], [0.0] * 3, [1.0, 2.0], [1.0, None, 2.0], []])
        ],
        {(BETWEEN, "query_norm", 3), (BETWEEN, "query_width", 2), (IN_SET, "query_has_no_null_element", 1)},
    ),
    ("padding index", ITEM_EMBEDDINGS, [item_embedding(0, item_index=0)], {(BETWEEN, "item_index", 1)}),
    ("zero vector", USER_EMBEDDINGS, [user_embedding(0, embedding=[0.0] * 3)], {(BETWEEN, "norm", 1)}),
    ("duplicate user", USER_EMBEDDINGS, [user_embedding(0)] * 2, {(BETWEEN, "rows_with_this_key", 2)}),
]


@pytest.mark.parametrize("table", [table for table, _ in BUILDERS], ids=lambda table: table.name)
def test_every_defect_is_counted_by_its_checks_and_by_no_other(spark: SparkSession, table: Table) -> None:
    """All defects of a table in one frame: a check that misses one, or counts another's, has a wrong count."""
    rows: list[Row] = []
    expected: Counter[tuple[str, str]] = Counter()
    for name, case_table, case_rows, breaks in DEFECTS:
        if case_table is table:
            rows += [_renamed(row, table.key[0], name) for row in case_rows]
            expected.update({(expectation, column): count for expectation, column, count in breaks})
    result = run_gate(spark, table, rows)
    assert broken(result) == {(*rule, count) for rule, count in expected.items()}
    with pytest.raises(ValidationError, match=f"table {table.name}: {len(expected)} of ") as error:
        result.raise_on_failure()
    for (expectation, column), count in expected.items():
        assert f"({expectation} on {column}): {count} of {len(rows)} rows" in str(error.value)


def _renamed(row: Row, key: str, case: str) -> Row:
    return row | {key: row[key] and f"{row[key]} of {case}"}


def test_vectors_of_two_checkpoints_are_refused(spark: SparkSession) -> None:
    rows = [user_embedding(0), user_embedding(1, model_version="v2"), user_embedding(2)]
    result = run_gate(spark, USER_EMBEDDINGS, rows)
    assert broken(result) == {(DISTINCT, "model_version", 3)}
    with pytest.raises(ValidationError, match=f"one checkpoint .{DISTINCT} on model_version.: found 2"):
        result.raise_on_failure()


def test_counts_agree_with_a_plain_python_oracle(spark: SparkSession) -> None:
    draw = random.Random(5)
    rows = [_random_sequence(draw) for _ in range(300)]
    result = run_gate(spark, USER_SEQUENCES, rows)
    keys = Counter((row["user_id"], row["task"]) for row in rows)
    oracle = {
        "rows_with_this_key": sum(keys[row["user_id"], row["task"]] > 1 for row in rows),
        "arrays_have_length": sum(
            not len(row["item_indices"]) == len(row["scenes"]) == len(row["event_ts"]) == row["length"] for row in rows
        ),
        "is_in_time_order": sum(row["event_ts"] != sorted(row["event_ts"]) for row in rows),
        "last_event_is_newest": sum(row["last_event_ts"] != max(row["event_ts"]) for row in rows),
        "last_event_ts": sum(row["last_event_ts"] >= AS_OF for row in rows),
        "smallest_item_index": sum(min(row["item_indices"]) < 1 for row in rows),
        "length": sum(not 1 <= row["length"] <= 3 for row in rows),
    }
    assert all(oracle.values())  # the draw has every defect
    found = {r["column"]: r["unexpected_count"] for r in result.records if not r["success"]}
    assert found == oracle


def _random_sequence(draw: random.Random) -> Row:
    times = [NOON + timedelta(hours=draw.randint(0, 14)) for _ in range(draw.randint(1, 4))]
    times = times if draw.random() < 0.2 else sorted(times)
    length = len(times) + (draw.random() < 0.1)
    return sequence(
        draw.randint(0, 300),
        item_indices=[draw.randint(0 if draw.random() < 0.1 else 1, 9) for _ in range(length)],
        scenes=["a"] * len(times),
        event_ts=times,
        length=len(times),
        last_event_ts=max(times) if draw.random() < 0.8 else times[0],
    )


def test_vectors_agree_with_a_plain_python_oracle(spark: SparkSession) -> None:
    draw = random.Random(6)
    choices = [0.0, 0.0, 0.0, 1.5, -3.0, nan, inf, -inf]
    vectors = [[draw.choice(choices) for _ in range(3)] for _ in range(200)]
    rows = [item_embedding(number, embedding=vector) for number, vector in enumerate(vectors)]
    unusable = sum(not isfinite(sum(x * x for x in v)) or not any(v) for v in vectors)
    assert broken(run_gate(spark, ITEM_EMBEDDINGS, rows)) == {(BETWEEN, "norm", unusable)}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda frame: frame.drop("value"), (COLUMNS, "", 1)),
        (lambda frame: frame.withColumn("surprise", F.lit(1)), (COLUMNS, "", 1)),
        (lambda frame: frame.select(*reversed(frame.columns)), (COLUMNS, "", 1)),
        (lambda frame: frame.withColumn("event_ts", F.col("event_ts").cast("string")), (TYPE, "event_ts", 1)),
    ],
    ids=["missing", "extra", "order", "type"],
)
def test_schema_drift_is_refused_by_name_before_rows_are_read(spark: SparkSession, change: Any, expected: Any) -> None:
    unreadable = F.raise_error(F.lit("a row was read")).cast("string")
    frame = frame_of(spark, EVENTS, [event(0)]).withColumn("scene", unreadable)
    result = gate(EVENTS, change(frame), run_id="r1")
    assert broken(result) == {expected}
    with pytest.raises(ValidationError, match="table events: 1 of"):
        result.raise_on_failure()


def test_no_value_of_a_user_leaves_the_gate(spark: SparkSession) -> None:
    secret = "carol@example.org"
    rows = [event(0, user_id=secret, action=secret, value=nan, event_id=secret), event(0, event_id=secret, scene="")]
    result = run_gate(spark, EVENTS, rows)
    with pytest.raises(ValidationError) as error:
        result.raise_on_failure()
    assert len(result.failures) == 4
    assert secret not in str(error.value) + repr(result.records) + repr(result.failures)


def test_an_empty_frame_is_valid_with_a_warning(spark: SparkSession) -> None:
    for table in (EVENTS, USER_SEQUENCES, ITEM_EMBEDDINGS):
        result = run_gate(spark, table, [])
        result.raise_on_failure()
        assert len(result.warnings) == 1 and "at least one row" in result.warnings[0]


def test_a_warning_is_recorded_and_does_not_stop_the_job(spark: SparkSession) -> None:
    result = run_gate(spark, ITEMS, [item(0), item(1, title=""), item(2, title="")])
    result.raise_on_failure()
    assert broken(result) == {(LENGTHS, "title", 2)}
    assert result.warnings == [
        "at least 50% of the items have a title (expect_column_value_lengths_to_be_between on title): 2 of 3 rows"
    ]


def test_the_frame_is_read_once_and_not_kept(spark: SparkSession) -> None:
    frame = frame_of(spark, USER_EMBEDDINGS, [user_embedding(number) for number in range(4)])
    context = spark.sparkContext
    kept = context._jsc.getPersistentRDDs().size()
    context.setJobGroup("one-pass", "the gate's jobs")
    try:
        gate(USER_EMBEDDINGS, frame, run_id="r1", width=3)
        assert len(context.statusTracker().getJobIdsForGroup("one-pass")) == 1
    finally:
        context.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]
    assert context._jsc.getPersistentRDDs().size() == kept


def test_an_error_of_the_frame_is_raised_as_it_is(spark: SparkSession) -> None:
    frame = frame_of(spark, EVENTS, [event(0)]).withColumn("user_id", F.raise_error(F.lit("disk full")).cast("string"))
    with pytest.raises(SparkRuntimeException, match="disk full"):
        gate(EVENTS, frame, run_id="r1")


def test_nothing_invalid_is_written_but_the_verdict_is(spark: SparkSession, tmp_path: Path) -> None:
    warehouse = Warehouse(str(tmp_path))
    frame = frame_of(spark, ITEM_EMBEDDINGS, [item_embedding(0, embedding=[0.0, 0.0, 0.0])])
    result = gate(ITEM_EMBEDDINGS, frame, run_id="r1", width=3)
    version = warehouse.append_records(VALIDATION_RESULTS, result.records)
    with pytest.raises(ValidationError, match="finite and not all zero"):
        result.raise_on_failure()
    assert not warehouse.exists(ITEM_EMBEDDINGS)
    kept = warehouse.read_arrow(VALIDATION_RESULTS, version).to_pylist()
    assert [row["column"] for row in kept if not row["success"]] == ["norm"]
