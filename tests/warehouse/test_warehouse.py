"""Delta access: pinned reads, one commit per change, none without a change, refusal of what does not fit."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from deltalake import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.errors import DataError, MissingTableError, SchemaError, WarehouseBusyError
from precise_core.warehouse import tables
from precise_core.warehouse.config import SparkConfig
from precise_core.warehouse.locks import warehouse_lock
from precise_core.warehouse.session import plan_for, session_settings
from precise_core.warehouse.tables import Warehouse
from schemas import ITEM_VOCABULARY, ITEMS, PAIR_SCORES, RUNS
from schemas import columns as c

AS_OF = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(str(tmp_path / "warehouse"))


def vocabulary(spark: SparkSession, items: int) -> DataFrame:
    ids = spark.range(items).select(F.concat(F.lit("i"), F.col("id")).alias(c.ITEM_ID), (F.col("id") + 2).cast("int"))
    return ids.toDF(c.ITEM_ID, c.ITEM_INDEX).withColumn(c.FIRST_SEEN, F.lit(AS_OF))


def scores(spark: SparkSession, version: str, score: float) -> DataFrame:
    frame = spark.createDataFrame(
        [("u1", "i1", version, AS_OF)],
        f"{c.USER_ID} string, {c.ITEM_ID} string, {c.MODEL_VERSION} string, {c.AS_OF} timestamp",
    )
    return frame.withColumn(c.SCORE, F.lit(score).cast("float")).select(*PAIR_SCORES.column_names)


def test_the_same_rows_again_make_no_new_version(spark: SparkSession, warehouse: Warehouse) -> None:
    first = warehouse.write(spark, ITEM_VOCABULARY, vocabulary(spark, 5), run_id="r1")
    again = warehouse.write(spark, ITEM_VOCABULARY, vocabulary(spark, 5).orderBy(F.desc(c.ITEM_ID)), run_id="r2")
    more = warehouse.write(spark, ITEM_VOCABULARY, vocabulary(spark, 6), run_id="r3")
    assert (first.changed, again.changed, more.changed) == (True, False, True)
    assert again.version == first.version < more.version
    assert (first.rows, more.rows) == (5, 6)


def test_one_changed_cell_is_noticed(spark: SparkSession, warehouse: Warehouse) -> None:
    warehouse.write(spark, ITEM_VOCABULARY, vocabulary(spark, 5), run_id="r1")
    index = F.when(F.col(c.ITEM_ID) == "i3", 99).otherwise(F.col(c.ITEM_INDEX)).cast("int")
    changed = vocabulary(spark, 5).withColumn(c.ITEM_INDEX, index)
    assert warehouse.write(spark, ITEM_VOCABULARY, changed, run_id="r2").changed


def test_what_a_commit_says_of_its_rows_holds_until_another_changes_them(
    spark: SparkSession, warehouse: Warehouse
) -> None:
    def write(items: int) -> bool:
        return warehouse.write(spark, ITEM_VOCABULARY, vocabulary(spark, items), run_id="r").changed

    assert write(5)
    path = warehouse.path(ITEM_VOCABULARY)
    DeltaTable(path).optimize.compact()
    assert not write(5)
    DeltaTable(path).delete(f"{c.ITEM_ID} = 'i3'")  # a commit that says nothing of what it left
    assert write(5) and not write(5) and write(6)
    DeltaTable(path).restore(DeltaTable(path).version() - 1)
    assert not write(5) and write(6)
    warehouse.append(ITEM_VOCABULARY, vocabulary(spark, 1), run_id="r")
    assert write(6)


def test_rows_of_which_a_file_is_lost_or_cut_are_not_taken_for_there(spark: SparkSession, warehouse: Warehouse) -> None:
    warehouse.write(spark, ITEM_VOCABULARY, vocabulary(spark, 5), run_id="r")
    (file,) = Path(warehouse.path(ITEM_VOCABULARY)).glob("*.parquet")
    whole = file.read_bytes()
    for damaged in (whole[:-9], None):
        file.unlink()
        if damaged is not None:
            file.write_bytes(damaged)
        with pytest.raises(Exception, match=file.name):
            warehouse.write(spark, ITEM_VOCABULARY, vocabulary(spark, 5), run_id="r")
        file.write_bytes(whole)


def test_what_a_commit_says_of_one_slice_is_not_taken_for_another(spark: SparkSession, warehouse: Warehouse) -> None:
    def write(version: str, score: float) -> bool:
        sliced = {c.MODEL_VERSION: version}
        return warehouse.write(spark, PAIR_SCORES, scores(spark, version, score), run_id="r", replace=sliced).changed

    assert write("a", 1.0) and write("b", 1.0)
    assert not write("a", 1.0) and not write("b", 1.0)
    assert write("a", 2.0) and not write("b", 1.0) and not write("a", 2.0)


def test_a_pinned_version_does_not_see_later_writes(spark: SparkSession, warehouse: Warehouse) -> None:
    old = warehouse.write(spark, ITEM_VOCABULARY, vocabulary(spark, 3), run_id="r1").version
    warehouse.write(spark, ITEM_VOCABULARY, vocabulary(spark, 7), run_id="r2")
    assert warehouse.read(spark, ITEM_VOCABULARY, old).count() == 3
    assert warehouse.read_arrow(ITEM_VOCABULARY, old).num_rows == 3


def test_a_small_table_and_a_large_one_are_read_alike(
    spark: SparkSession, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = replace(PAIR_SCORES, columns=tuple(column for column in PAIR_SCORES.columns if column.name != c.AS_OF))
    for number, version in enumerate(("b's", "ä b=1%41:2")):
        frame = scores(spark, version, number).drop(c.AS_OF)
        warehouse.write(spark, older, frame, run_id="r", replace={c.MODEL_VERSION: version})
    warehouse.append(PAIR_SCORES, scores(spark, "c", 0.5), run_id="r", rows=1)

    def found() -> list[tuple[list[tuple[str, str]], list[tuple[object, ...]]]]:
        frames = [warehouse.read(spark, PAIR_SCORES, version) for version in range(4)]
        one = frames[-1].where(F.col(c.MODEL_VERSION) == "b's")
        return [(frame.dtypes, sorted(map(tuple, frame.collect()), key=str)) for frame in (*frames, one)]

    small = found()
    monkeypatch.setattr(tables, "_SMALL_BYTES", -1)
    assert small == found()
    assert [len(rows) for _, rows in small] == [0, 1, 2, 3, 1]


def test_queries_are_planned_for_the_data_and_what_was_given_stays(spark: SparkSession) -> None:
    keys = ("spark.sql.shuffle.partitions", "spark.sql.adaptive.enabled", "spark.sql.codegen.wholeStage")

    def planned(data_bytes: int, **conf: str) -> list[str | None]:
        config = SparkConfig(shuffle_partitions=7, conf={key.replace("_", "."): value for key, value in conf.items()})
        plan_for(spark, config, data_bytes)
        return [spark.conf.get(key, None) for key in keys]

    with session_settings(spark, {key: str(spark.conf.get(key)) for key in (*keys, "spark.sql.codegen.factoryMode")}):
        assert planned(0) == ["2", "false", "false"]
        assert planned(2 << 20) == ["2", "false", "true"]
        assert planned(64 << 20) == ["7", "true", "true"]
        assert planned(0, spark_sql_adaptive_enabled="true") == ["2", "true", "false"]


def test_replacing_a_slice_leaves_the_others(spark: SparkSession, warehouse: Warehouse) -> None:
    for version in ("a", "b's"):
        warehouse.write(spark, PAIR_SCORES, scores(spark, version, 0.5), run_id="r", replace={c.MODEL_VERSION: version})
    warehouse.write(spark, PAIR_SCORES, scores(spark, "b's", 0.7), run_id="r", replace={c.MODEL_VERSION: "b's"})
    rows = warehouse.read(spark, PAIR_SCORES, warehouse.version(PAIR_SCORES)).collect()
    assert {row[c.MODEL_VERSION]: round(row[c.SCORE], 3) for row in rows} == {"a": 0.5, "b's": 0.7}


def test_a_row_outside_the_slice_is_refused(spark: SparkSession, warehouse: Warehouse) -> None:
    with pytest.raises(DataError, match="pair_scores: 1 rows lie outside the slice"):
        warehouse.write(spark, PAIR_SCORES, scores(spark, "a", 0.5), run_id="r", replace={c.MODEL_VERSION: "b"})


def test_an_empty_result_is_a_valid_table(spark: SparkSession, warehouse: Warehouse) -> None:
    written = warehouse.write(spark, ITEM_VOCABULARY, vocabulary(spark, 0), run_id="r")
    assert warehouse.read(spark, ITEM_VOCABULARY, written.version).count() == 0
    assert warehouse.append(ITEM_VOCABULARY, vocabulary(spark, 0), run_id="r").version == written.version


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(c.FIRST_SEEN), "missing columns \\['first_seen'\\]"),
        (lambda frame: frame.withColumn("extra", F.lit(1)), "unknown columns \\['extra'\\]"),
        (lambda frame: frame.withColumn(c.ITEM_INDEX, F.lit(1.5)), "item_index: is .*declared as int"),
    ],
)
def test_a_frame_of_another_schema_is_refused(spark, warehouse, change, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SchemaError, match=message):
        warehouse.write(spark, ITEM_VOCABULARY, change(vocabulary(spark, 2)), run_id="r")
    assert not warehouse.exists(ITEM_VOCABULARY)


def test_a_null_is_refused_in_a_column_and_inside_a_list(spark: SparkSession, warehouse: Warehouse) -> None:
    with pytest.raises(DataError, match="item_vocabulary.*'item_id': 2"):
        frame = vocabulary(spark, 2).withColumn(c.ITEM_ID, F.lit(None).cast("string"))
        warehouse.write(spark, ITEM_VOCABULARY, frame, run_id="r")
    item = spark.createDataFrame(
        [("i1", "t", "d", ["a", None], {"k": "v"}, None, None, False, None)],
        "item_id string, title string, description string, categories array<string>, attributes map<string,string>, "
        "published_ts timestamp, updated_ts timestamp, is_deleted boolean, file_sequence bigint",
    )
    with pytest.raises(DataError, match="items.*'categories': 1"):
        warehouse.write(spark, ITEMS, item, run_id="r")


def test_a_missing_table_names_the_job_that_writes_it(warehouse: Warehouse) -> None:
    with pytest.raises(MissingTableError, match="item_vocabulary.*run jobs/tokenize_items.py first"):
        warehouse.version(ITEM_VOCABULARY)


def test_records_of_a_small_table_are_replaced_only_when_they_differ(warehouse: Warehouse) -> None:
    record = {name: None for name in ITEM_VOCABULARY.column_names} | {
        c.ITEM_ID: "i",
        c.ITEM_INDEX: 2,
        c.FIRST_SEEN: AS_OF,
    }
    first = warehouse.replace_records(ITEM_VOCABULARY, [record])
    assert warehouse.replace_records(ITEM_VOCABULARY, [record]) == first
    assert warehouse.replace_records(ITEM_VOCABULARY, [record | {c.ITEM_INDEX: 3}]) > first
    assert not warehouse.exists(RUNS)


def test_a_second_process_is_turned_away(tmp_path: Path) -> None:
    import subprocess
    import sys

    holder = (
        "import sys, time; from precise_core.warehouse.locks import warehouse_lock\n"
        "with warehouse_lock(sys.argv[1]):\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline().strip() == "held"
        message = rf"in use by process {process.pid} on .+ \(-c .+\), since 2\d+.*; wait for it to end"
        with pytest.raises(WarehouseBusyError, match=message), warehouse_lock(str(tmp_path)):
            pass
        process.kill()
    with warehouse_lock(str(tmp_path)) as stale, warehouse_lock(str(tmp_path)):  # re-entrant
        assert stale is not None and stale.pid == process.pid  # the kernel let go of it, and it is told
    with warehouse_lock(str(tmp_path)) as stale:
        assert stale is None  # who ends well leaves nothing to tell


def test_the_lock_of_a_killed_erasure_names_no_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--config", "c.yaml", "--user-id", "auth0|42", "--user=bob", "--user-id=eve", "--ids", "list.txt"]
    monkeypatch.setattr("sys.argv", ["jobs/erase_user.py", *flags])
    with warehouse_lock(str(tmp_path)):
        text = (tmp_path / ".lock").read_text()
    assert "erase_user.py --config c.yaml --user-id ... --user=... --user-id=... --ids list.txt" in text


def test_a_holder_on_another_host_is_not_taken_for_dead(tmp_path: Path) -> None:
    """On some shares a lock does not leave its host, so that only a person can say that nothing runs there."""
    lock = tmp_path / ".lock"
    lock.write_text('{"pid": 12, "host": "elsewhere", "command": "run_night.py", "since": "2024-02-20 01:00:00 UTC"}')
    message = r"last held by process 12 on elsewhere \(run_night.py\), since 2024-02-20.*remove .*\.lock"
    with pytest.raises(WarehouseBusyError, match=message), warehouse_lock(str(tmp_path)):
        pass
    lock.unlink()
    with warehouse_lock(str(tmp_path)):
        pass


def test_a_value_that_moves_to_the_next_column_is_noticed(spark: SparkSession, warehouse: Warehouse) -> None:
    schema = (
        "item_id string, title string, description string, categories array<string>, attributes map<string,string>, "
        "published_ts timestamp, updated_ts timestamp, is_deleted boolean, file_sequence bigint"
    )
    row = ("i1", "t", "d", ["a"], {}, AS_OF, None, False, None)
    moved = ("i1", "t", "d", ["a"], {}, None, AS_OF, False, None)
    warehouse.write(spark, ITEMS, spark.createDataFrame([row], schema), run_id="r1")
    assert warehouse.write(spark, ITEMS, spark.createDataFrame([moved], schema), run_id="r2").changed
